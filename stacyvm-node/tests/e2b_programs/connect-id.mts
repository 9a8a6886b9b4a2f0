// sandbox/connect: the id of a running sandbox
// prints: ^true\n$
import { Sandbox } from 'stacyvm/e2b'

const sbx = await Sandbox.create()

// Get all running sandboxes
const paginator = await Sandbox.list({
  query: { state: ['running'] },
})

const runningSandboxes = await paginator.nextItems()
if (runningSandboxes.length === 0) {
  throw new Error('No running sandboxes found')
}

// Get the ID of the sandbox you want to connect to
const sandboxId = runningSandboxes[0].sandboxId
console.log(sandboxId === sbx.sandboxId)
