// filesystem/info: of a directory
// prints: ^true false\n\{\n  name: 'test_dir',\n  type: 'dir',\n  path: '/home/user/test_dir',\n.*permissions: 'drwxr-xr-x',\n  owner: 'user',
import { Sandbox } from 'stacyvm/e2b'

const sandbox = await Sandbox.create()

// Create a new directory
console.log(await sandbox.files.makeDir('test_dir'), await sandbox.files.makeDir('test_dir'))

// Get information about the directory
const info = await sandbox.files.getInfo('test_dir')

console.log(info)
