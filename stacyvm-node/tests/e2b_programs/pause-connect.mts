// sandbox/persistence: pause and resume
// prints: ^Sandbox created (s\w+)\nSandbox paused \1\nConnected to the sandbox \1\nwent on\n true\n$
import { Sandbox } from 'stacyvm/e2b'

const sbx = await Sandbox.create()
console.log('Sandbox created', sbx.sandboxId)
const command = await sbx.commands.run('sleep 0.5; echo went on', { background: true })

// Pause the sandbox
// You can save the sandbox ID in your database to resume the sandbox later
await sbx.betaPause()
console.log('Sandbox paused', sbx.sandboxId)

// Connect to the sandbox (it will automatically resume the sandbox, if paused)
const sameSbx = await sbx.connect()
console.log('Connected to the sandbox', sameSbx.sandboxId)
console.log((await command.wait()).stdout, await sameSbx.isRunning())
