// sandbox/commands: list and kill by pid
// prints: ^PID: \d+, Command: /bin/bash\ntrue true\n\[\] false\n$
import { Sandbox } from 'stacyvm/e2b'

const sandbox = await Sandbox.create()

// Start a background process
const cmd = await sandbox.commands.run('sleep 300', { background: true })

// List all running processes
const processes = await sandbox.commands.list()
for (const proc of processes) {
  console.log(`PID: ${proc.pid}, Command: ${proc.cmd}`)
}

// Kill a process by PID
console.log(processes[0].pid === cmd.pid, await sandbox.commands.kill(processes[0].pid))
console.log(await sandbox.commands.list(), await sandbox.commands.kill(processes[0].pid))
