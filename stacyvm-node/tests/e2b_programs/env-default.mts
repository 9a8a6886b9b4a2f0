// sandbox/environment-variables: the default ones
// prints: ^true\ntrue base\n\n$
import { Sandbox } from 'stacyvm/e2b'

const sandbox = await Sandbox.create()
const result = await sandbox.commands.run('echo $E2B_SANDBOX_ID')
console.log(result.stdout.trim() === sandbox.sandboxId)
console.log((await sandbox.commands.run('echo $E2B_SANDBOX $E2B_TEMPLATE_ID')).stdout)
