// sandbox/persistence: list what is paused
// prints: ^true\n$
import { Sandbox, SandboxInfo } from 'stacyvm/e2b'

const [, paused] = [await Sandbox.create(), await Sandbox.create()]
await Sandbox.betaPause(paused.sandboxId)

// List all paused sandboxes
const paginator = Sandbox.list({ query: { state: ['paused'] } })

// Get the first page of paused sandboxes
const sandboxes: SandboxInfo[] = await paginator.nextItems()

// Get all paused sandboxes
while (paginator.hasNext) {
  const items = await paginator.nextItems()
  sandboxes.push(...items)
}
console.log(sandboxes.map((one) => one.sandboxId).join() === paused.sandboxId)
