// sandbox/connect: connect and run whoami
// prints: ^Running in sandbox s\w+ as "user"\n$
import { Sandbox } from 'stacyvm/e2b'

const { sandboxId } = await Sandbox.create()

const sandbox = await Sandbox.connect(sandboxId)

// Now you can use the sandbox as usual
// ...
const result = await sandbox.commands.run("whoami")
console.log(`Running in sandbox ${sandbox.sandboxId} as "${result.stdout.trim()}"`)
