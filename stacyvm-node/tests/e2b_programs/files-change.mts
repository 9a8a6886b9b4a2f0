// sdk-reference: rename, remove, exists
// prints: ^/home/user/new.txt false true\nfalse\n$
import { Sandbox } from 'stacyvm/e2b'

const sandbox = await Sandbox.create()
await sandbox.files.write('old.txt', 'content')
const info = await sandbox.files.rename('old.txt', 'new.txt')
console.log(info.path, await sandbox.files.exists('old.txt'), await sandbox.files.exists('new.txt'))
await sandbox.files.remove('new.txt')
await sandbox.files.remove('new.txt')
console.log(await sandbox.files.exists('new.txt'))
