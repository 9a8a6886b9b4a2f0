// sdk-reference: another user and directory
// prints: ^\[ 'root', '/root' \]\n\[ 'user', '/home/user' \]\n\[ '/tmp' \]\n\[ 'login' \]\n$
import { Sandbox, type CommandStartOpts } from 'stacyvm/e2b'

const sandbox = await Sandbox.create()
const words = async (line: string, opts?: CommandStartOpts & { background?: false }) => {
  const { stdout } = await sandbox.commands.run(line, opts)
  console.log(stdout.trim().split('\n'))
}
await words('whoami; pwd', { user: 'root' })
await words('whoami; pwd', { user: 'user' })
await words('pwd', { cwd: '/tmp' })
await words('shopt -q login_shell && echo login')
