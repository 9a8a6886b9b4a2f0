// sandbox/persistence: remove what is paused
// prints: ^true\nfalse\n$
import { Sandbox } from 'stacyvm/e2b'

const sbx = await Sandbox.create()

// Pause the sandbox
await sbx.betaPause()

// Remove the sandbox
console.log(await sbx.kill())

// Remove sandbox by id
console.log(await Sandbox.kill(sbx.sandboxId))
