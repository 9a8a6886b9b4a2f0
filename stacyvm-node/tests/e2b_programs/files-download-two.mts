// quickstart/upload-download-files: download many
// prints: ^a\nb\n\n$
import fs from 'fs'
import { Sandbox } from 'stacyvm/e2b'

const sbx = await Sandbox.create()
await sbx.commands.run('echo a > my-file-a; echo b > my-file-b')
// Download file A from the sandbox by absolute path '/home/user/my-file-a'
const contentA = await sbx.files.read('/home/user/my-file-a')
// Write file A to local path relative to the current working directory
fs.writeFileSync('local/a', contentA)

// Download file B from the sandbox by absolute path '/home/user/my-file-b'
const contentB = await sbx.files.read('/home/user/my-file-b')
// Write file B to local path relative to the current working directory
fs.writeFileSync('local/b', contentB)
console.log(fs.readFileSync('local/a', 'utf8') + fs.readFileSync('local/b', 'utf8'))
