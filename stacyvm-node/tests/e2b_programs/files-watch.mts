// filesystem/watch: a directory
// prints: ^\{ name: 'my-file', type: 'create' \}\n\{ name: 'my-file', type: 'write' \}\nwrote to file my-file\nundefined\n$
import { Sandbox, FilesystemEventType } from 'stacyvm/e2b'

const sandbox = await Sandbox.create()
const dirname = '/home/user'
let told = () => {}
const written = new Promise<void>((resolve) => (told = resolve))

// Start watching directory for changes
const handle = await sandbox.files.watchDir(dirname, async (event) => {
  console.log(event)
  if (event.type === FilesystemEventType.WRITE) {
    console.log(`wrote to file ${event.name}`)
    told()
  }
}, { onExit: (error) => console.log(error) })

// Trigger file write event
await sandbox.files.write(`${dirname}/my-file`, 'hello')
await written
await handle.stop()
