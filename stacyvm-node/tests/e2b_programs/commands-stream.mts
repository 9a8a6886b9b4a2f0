// commands/streaming: output as it comes
// prints: ^hello\n\nworld\n\n\{.*stdout: 'hello\\nworld\\n'.*\}\n$
import { Sandbox } from 'stacyvm/e2b'

const sandbox = await Sandbox.create()

const result = await sandbox.commands.run('echo hello; sleep 0.2; echo world', {
  onStdout: (data) => {
    console.log(data)
  },
  onStderr: (data) => {
    console.log(data)
  },
})
console.log(result)
