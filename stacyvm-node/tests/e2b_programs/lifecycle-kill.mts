// sandbox: shutdown
// prints: ^true\nfalse false\n$
import { Sandbox } from 'stacyvm/e2b'

// Create sandbox with and keep it running for 60 seconds.
const sandbox = await Sandbox.create({ timeoutMs: 60_000 })

// Shutdown the sandbox immediately.
console.log(await sandbox.kill())
console.log(await sandbox.kill(), await Sandbox.kill('sbx-unknown'))
