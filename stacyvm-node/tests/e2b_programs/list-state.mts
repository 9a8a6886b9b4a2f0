// sandbox/list: by state
// prints: ^\[ true \]\n$
import { Sandbox } from 'stacyvm/e2b'

// Create a sandbox.
const sandbox = await Sandbox.create()

// List sandboxes that are running or paused.
const paginator = Sandbox.list({
  query: {
    state: ['running', 'paused'],
  },
})

const sandboxes = await paginator.nextItems()
console.log(sandboxes.map((one) => one.sandboxId === sandbox.sandboxId))
