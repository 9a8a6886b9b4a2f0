// sandbox/pty: input, without timeout
// prints: Hello from 42 PTY\r?\n
import { Sandbox } from 'stacyvm/e2b'

const sandbox = await Sandbox.create()

const terminal = await sandbox.pty.create({
  cols: 80,
  rows: 24,
  onData: (data) => process.stdout.write(data),
  timeoutMs: 0, // Keep the session open indefinitely
})

// Send a command (don't forget the newline!)
await sandbox.pty.sendInput(
  terminal.pid,
  new TextEncoder().encode('echo "Hello from $((6 * 7)) PTY"; exit\n')
)
await terminal.wait()
