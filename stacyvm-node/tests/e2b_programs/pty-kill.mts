// sandbox/pty: kill
// prints: ^Killed: true\nfalse\n$
import { Sandbox } from 'stacyvm/e2b'

const sandbox = await Sandbox.create()

const terminal = await sandbox.pty.create({
  cols: 80,
  rows: 24,
  onData: () => {},
})

// Kill the PTY
const killed = await sandbox.pty.kill(terminal.pid)
console.log('Killed:', killed) // true if successful

// Or use the handle method
console.log(await terminal.kill())
