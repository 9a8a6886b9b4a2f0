// sdk-reference: isRunning
// prints: ^true\nfalse\n$
import { Sandbox } from 'stacyvm/e2b'

const sandbox = await Sandbox.create()
console.log(await sandbox.isRunning()) // Returns true

await sandbox.kill()
console.log(await sandbox.isRunning()) // Returns false
