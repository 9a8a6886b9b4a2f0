// sandbox/pty: create
// prints: ^Terminal PID: \d+\n.*hello xterm-256color /home/user root\r?\n
import { Sandbox } from 'stacyvm/e2b'

const sandbox = await Sandbox.create()

const terminal = await sandbox.pty.create({
  cols: 80,              // Terminal width in characters
  rows: 24,              // Terminal height in characters
  onData: (data) => {
    // Called whenever terminal outputs data
    process.stdout.write(data)
  },
  envs: { MY_VAR: 'hello' },  // Optional environment variables
  cwd: '/home/user',          // Optional working directory
  user: 'root',               // Optional user to run as
})

// terminal.pid contains the process ID
console.log('Terminal PID:', terminal.pid)
await sandbox.pty.sendInput(
  terminal.pid,
  new TextEncoder().encode('echo "$MY_VAR $TERM $(pwd) $(id -un)"; exit\n'),
)
await terminal.wait()
