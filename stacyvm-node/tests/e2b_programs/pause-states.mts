// sandbox/persistence: states
// prints: ^resumed\n\n$
import { Sandbox } from 'stacyvm/e2b'

const sandbox = await Sandbox.create() // Starts in Running state

// Pause the sandbox
await sandbox.betaPause() // Running -> Paused

// Resume the sandbox
await sandbox.connect() // Running/Paused -> Running
console.log((await sandbox.commands.run('echo resumed')).stdout)

// Kill the sandbox (from any state)
await sandbox.kill() // Running/Paused -> Killed
