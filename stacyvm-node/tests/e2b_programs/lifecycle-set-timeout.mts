// sandbox: another timeout later
// prints: ^30\n90\n$
import { Sandbox } from 'stacyvm/e2b'

// Create sandbox with and keep it running for 60 seconds.
const sandbox = await Sandbox.create({ timeoutMs: 60_000 })

// Change the sandbox timeout to 30 seconds.
// The new timeout will be 30 seconds from now.
await sandbox.setTimeout(30_000)
console.log(Math.round(((await sandbox.getInfo()).endAt.getTime() - Date.now()) / 1000))

// By the sandbox's id
await Sandbox.setTimeout(sandbox.sandboxId, 90_000)
console.log(Math.round(((await Sandbox.getInfo(sandbox.sandboxId)).endAt.getTime() - Date.now()) / 1000))
