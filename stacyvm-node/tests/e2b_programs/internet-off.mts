// sandbox/internet-access: without internet
// prints: ^1 .*Network is unreachable\n
import { CommandExitError, Sandbox } from 'stacyvm/e2b'

// Create sandbox without internet access
const isolatedSandbox = await Sandbox.create({ allowInternetAccess: false })
try {
  await isolatedSandbox.commands.run('exec 3<>/dev/tcp/1.1.1.1/53')
} catch (error) {
  if (error instanceof CommandExitError) console.log(error.exitCode, error.stderr)
}
