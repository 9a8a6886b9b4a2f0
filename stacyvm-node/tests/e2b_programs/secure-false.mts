// sandbox/secured-access, migration/v2: secure: false
// prints: ^true\n$
import { Sandbox } from 'stacyvm/e2b'

const sandbox = await Sandbox.create({ secure: false }) // Explicitly disable
console.log(await sandbox.isRunning())
