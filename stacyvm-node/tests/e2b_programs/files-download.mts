// filesystem/download: a file
// prints: ^made inside\n\n$
import fs from 'fs'
import { Sandbox } from 'stacyvm/e2b'

const sandbox = await Sandbox.create()
await sandbox.commands.run('mkdir -p path/in; echo made inside > path/in/sandbox')

// Read file from sandbox
const content = await sandbox.files.read('/home/user/path/in/sandbox')
// Write file to local filesystem
fs.writeFileSync('local/path', content)
console.log(fs.readFileSync('local/path', 'utf8'))
