// sandbox/persistence: a timeout at connect
// prints: ^60\n60\n$
import { Sandbox } from 'stacyvm/e2b'

const { sandboxId } = await Sandbox.create({ timeoutMs: 10_000 })

const sbx = await Sandbox.connect(sandboxId, { timeoutMs: 60 * 1000 }) // 60 seconds
console.log(Math.round(((await sbx.getInfo()).endAt.getTime() - Date.now()) / 1000))

// For running sandboxes, the timeout will update only if the new timeout is longer
await Sandbox.connect(sandboxId, { timeoutMs: 20 * 1000 })
console.log(Math.round(((await sbx.getInfo()).endAt.getTime() - Date.now()) / 1000))
