// filesystem/read-write: read, write
// prints: ^file content\nFileNotFoundError true\n$
import { NotFoundError, Sandbox } from 'stacyvm/e2b'

const sandbox = await Sandbox.create()

await sandbox.files.write('/home/user/path/to/file', 'file content')
const fileContent = await sandbox.files.read('/home/user/path/to/file')
console.log(fileContent)
await sandbox.files.read('/path/to/nothing').catch((error) => {
  console.log(error.name, error instanceof NotFoundError)
})
