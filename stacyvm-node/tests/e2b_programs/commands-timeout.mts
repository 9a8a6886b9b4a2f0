// sdk-reference: a timeout
// prints: ^TimeoutError\ndone\n\n$
import { Sandbox, TimeoutError } from 'stacyvm/e2b'

const sandbox = await Sandbox.create()
try {
  await sandbox.commands.run('sleep 10', { timeoutMs: 200 })
} catch (error) {
  if (error instanceof TimeoutError) console.log(error.name)
}
console.log((await sandbox.commands.run('sleep 0.1; echo done', { timeoutMs: 0 })).stdout)
