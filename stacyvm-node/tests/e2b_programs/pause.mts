// sandbox/persistence: pause
// prints: ^Sandbox created s\w+\ntrue false\nSandbox paused paused\n$
import { Sandbox } from 'stacyvm/e2b'

const sbx = await Sandbox.create()
console.log('Sandbox created', sbx.sandboxId)

// Pause the sandbox
// You can save the sandbox ID in your database to resume the sandbox later
console.log(await sbx.pause(), await sbx.pause())
console.log('Sandbox paused', (await sbx.getInfo()).state)
