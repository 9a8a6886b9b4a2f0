// commands/background: in the background
// prints: ^hello\n\ntrue\nsignal: killed\n$
import { CommandExitError, Sandbox } from 'stacyvm/e2b'

const sandbox = await Sandbox.create()

// Start the command in the background
let told = () => {}
const hello = new Promise<void>((resolve) => (told = resolve))
const command = await sandbox.commands.run('echo hello; sleep 10; echo world', {
  background: true,
  onStdout: (data) => {
    console.log(data)
    told()
  },
})
await hello

// Kill the command
console.log(await command.kill())
await command.wait().catch((error) => console.log(error instanceof CommandExitError && error.message))
