// README: hello
// prints: ^Hello from E2B!\n\n$
import { Sandbox } from 'stacyvm/e2b'

const sandbox = await Sandbox.create()
const result = await sandbox.commands.run('echo "Hello from E2B!"')
console.log(result.stdout) // Hello from E2B!
