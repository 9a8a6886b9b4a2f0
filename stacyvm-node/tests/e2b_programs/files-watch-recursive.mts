// filesystem/watch: with what is below it
// prints: name: 'my-folder',\n  type: 'create',\n.*name: 'my-folder/my-file',\n  type: 'write',\n.*wrote to file my-folder/my-file 5\n$
import { Sandbox, FilesystemEventType } from 'stacyvm/e2b'

const sandbox = await Sandbox.create()
const dirname = '/home/user'
let told = () => {}
const written = new Promise<void>((resolve) => (told = resolve))

// Start watching directory for changes
const handle = await sandbox.files.watchDir(dirname, async (event) => {
  console.log(event)
  if (event.type === FilesystemEventType.WRITE) {
    console.log(`wrote to file ${event.name}`, event.entry?.size)
    told()
  }
}, {
  recursive: true,
  includeEntry: true
})

// Trigger file write event
await sandbox.files.write(`${dirname}/my-folder/my-file`, 'hello')
await written
await handle.stop()
