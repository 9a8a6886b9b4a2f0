// quickstart/upload-download-files: upload many
// prints: ^\[ 'my-file', 'my-file-a', 'my-file-b' \]\n$
import fs from 'fs'
import { Sandbox } from 'stacyvm/e2b'

// Read local file relative to the current working directory
const content = fs.readFileSync('local/path')
const fileA = fs.readFileSync('local/dir/file1.txt')
const fileB = fs.readFileSync('local/dir/file2.txt')

const sbx = await Sandbox.create()
// Upload file to the sandbox to absolute path '/home/user/my-file'
await sbx.files.write('/home/user/my-file', content)
// Upload file A to the sandbox to absolute path '/home/user/my-file-a'
await sbx.files.write('/home/user/my-file-a', fileA)
// Upload file B to the sandbox to absolute path '/home/user/my-file-b'
await sbx.files.write('/home/user/my-file-b', fileB)
const names = (await sbx.files.list('/home/user')).map((entry) => entry.name)
console.log(names.filter((name) => !name.startsWith('.')))
