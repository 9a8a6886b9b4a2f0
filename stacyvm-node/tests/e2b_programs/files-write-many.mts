// filesystem/read-write: write many
// prints: ^\[\n  \{ name: 'a', type: 'file', path: '/home/user/path/to/a' \},\n  \{ name: 'b', type: 'file', path: '/home/user/another/path/to/b' \}\n\]\nfile contentfile content\n$
import { Sandbox } from 'stacyvm/e2b'

const sandbox = await Sandbox.create()

console.log(await sandbox.files.write([
    { path: '/home/user/path/to/a', data: 'file content' },
    { path: 'another/path/to/b', data: 'file content' }
]))
console.log((await sandbox.commands.run('cat path/to/a another/path/to/b')).stdout)
