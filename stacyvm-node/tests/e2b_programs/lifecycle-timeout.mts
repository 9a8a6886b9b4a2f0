// sandbox: a timeout at creation
// prints: ^60\n$
import { Sandbox } from 'stacyvm/e2b'

// Create sandbox with and keep it running for 60 seconds.
// Note: The units are milliseconds.
const sandbox = await Sandbox.create({
  timeoutMs: 60_000,
})
const info = await sandbox.getInfo()
console.log(Math.round((info.endAt.getTime() - info.startedAt.getTime()) / 1000))
