// sdk-reference: contexts
// prints: ^1 NameError\ntrue /tmp\nNotFoundError\n$
import { NotFoundError, Sandbox } from 'stacyvm/e2b'

const sandbox = await Sandbox.create()
const context = await sandbox.createCodeContext({ cwd: '/tmp', language: 'python' })
await sandbox.runCode('x = 1', { context })
const same = await sandbox.runCode('x', { context })
const other = await sandbox.runCode('x')
console.log(same.text, other.error?.name)
const known = await sandbox.listCodeContexts()
console.log(known.some((one) => one.id === context.id), context.cwd)
await sandbox.removeCodeContext(context)
await sandbox.runCode('x', { context }).catch((error) => {
  if (error instanceof NotFoundError) console.log(error.name)
})
