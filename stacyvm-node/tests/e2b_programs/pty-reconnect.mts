// sandbox/pty: disconnect and reconnect
// prints: Handler 1: .*Handler 2: .*world 2\r?\n
import { Sandbox } from 'stacyvm/e2b'

const sandbox = await Sandbox.create()

// Create a PTY session
let told = () => {}
const hello = new Promise<void>((resolve) => (told = resolve))
const terminal = await sandbox.pty.create({
  cols: 80,
  rows: 24,
  onData: (data) => {
    const text = new TextDecoder().decode(data)
    console.log('Handler 1:', text)
    if (text.includes('hello 1')) told()
  },
})

const pid = terminal.pid

// Send a command
await sandbox.pty.sendInput(pid, new TextEncoder().encode('echo hello $((0 + 1))\n'))
await hello

// Disconnect - PTY keeps running in the background
await terminal.disconnect()

// Later: reconnect with a new data handler
const reconnected = await sandbox.pty.connect(pid, {
  onData: (data) => console.log('Handler 2:', new TextDecoder().decode(data)),
})

// Continue using the session
await sandbox.pty.sendInput(pid, new TextEncoder().encode('echo world $((1 + 1)); exit\n'))

// Wait for the terminal to exit
await reconnected.wait()
