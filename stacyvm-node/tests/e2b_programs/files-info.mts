// filesystem/info: of a file
// prints: ^\{\n  name: 'test_file.txt',\n  type: 'file',\n  path: '/home/user/test_file.txt',\n  size: 13,\n  mode: 420,\n  permissions: '-rw-r--r--',\n  owner: 'user',\n  group: 'user',\n  modifiedTime: \d{4}-\S+Z,\n  symlinkTarget: undefined\n\}\n$
import { Sandbox } from 'stacyvm/e2b'

const sandbox = await Sandbox.create()

// Create a new file
await sandbox.files.write('test_file.txt', 'Hello, world!')

// Get information about the file
const info = await sandbox.files.getInfo('test_file.txt')

console.log(info)
