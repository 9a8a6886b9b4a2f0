// sdk-reference: text, bytes, blob and stream
// prints: ^file content\nUint8Array 12\nBlob file content\nfile content\n$
import { Sandbox } from 'stacyvm/e2b'

const sandbox = await Sandbox.create()
const content = new Blob(['file ', 'content'])
await sandbox.files.write('path/to/file', content.stream())

console.log(await sandbox.files.read('path/to/file', { format: 'text' }))

const bytes = await sandbox.files.read('path/to/file', { format: 'bytes' })
console.log(bytes.constructor.name, bytes.length)

const blob = await sandbox.files.read('~/path/to/file', { format: 'blob' })
console.log(blob.constructor.name, await blob.text())

const stream = await sandbox.files.read('path/to/file', { format: 'stream' })
const reader = stream.getReader()
for (;;) {
  const { done, value } = await reader.read()
  if (done) break
  console.log(new TextDecoder().decode(value))
}
