// sdk-reference: an exit that is not 0
// prints: ^3 one\n two\n exit status 3 true CommandExitError\n$
import { CommandExitError, Sandbox, SandboxError } from 'stacyvm/e2b'

const sandbox = await Sandbox.create()
try {
  await sandbox.commands.run('echo one; echo two >&2; exit 3')
} catch (error) {
  if (error instanceof CommandExitError) {
    console.log(error.exitCode, error.stdout, error.stderr, error.error, error instanceof SandboxError, error.name)
  }
}
