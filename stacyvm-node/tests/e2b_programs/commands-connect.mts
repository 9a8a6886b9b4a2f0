// sdk-reference: connect by pid
// prints: ^true\n\[ 'one', 'two' \] 0\nnone\n$
import { NotFoundError, Sandbox } from 'stacyvm/e2b'

const sandbox = await Sandbox.create()
const cmd = await sandbox.commands.run('echo one; sleep 0.3; echo two', { background: true })

const same = await Sandbox.connect(sandbox.sandboxId)
const handle = await same.commands.connect(cmd.pid)
console.log(handle.pid === cmd.pid)
console.log((await cmd.wait()).stdout.trim().split('\n'), (await handle.wait()).exitCode)
await sandbox.commands.connect(999999).catch((error) => {
  if (error instanceof NotFoundError) console.log('none')
})
