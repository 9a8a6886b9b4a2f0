// sdk-reference: sendStdin, closeStdin
// prints: ^Hello, \n\{ exitCode: 0, error: undefined, stdout: 'Hello, World!', stderr: '' \}\n$
import { Sandbox } from 'stacyvm/e2b'

const sandbox = await Sandbox.create()
let told = (_: string) => {}
const first = new Promise<string>((resolve) => (told = resolve))
const cmd = await sandbox.commands.run('cat', { background: true, stdin: true, onStdout: (data) => told(data) })
await sandbox.commands.sendStdin(cmd.pid, 'Hello, ')
console.log(await first)
await cmd.sendStdin(new TextEncoder().encode('World!'))
await sandbox.commands.closeStdin(cmd.pid)
console.log(await cmd.wait())
