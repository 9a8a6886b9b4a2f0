// filesystem/upload: a file
// prints: ^local content\n\n$
import fs from 'fs'
import { Sandbox } from 'stacyvm/e2b'

const sandbox = await Sandbox.create()

// Read file from local filesystem
const content = fs.readFileSync('local/path')
// Upload file to sandbox
await sandbox.files.write('/home/user/path/in/sandbox', content)
console.log((await sandbox.commands.run('cat ~/path/in/sandbox')).stdout)
