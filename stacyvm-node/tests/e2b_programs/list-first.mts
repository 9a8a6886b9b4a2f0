// sandbox/list: the first page
// prints: ^Running sandbox metadata: \{ name: 'My Sandbox' \}\nRunning sandbox id: s\w+\nRunning sandbox started at: \d{4}-\S+Z\nRunning sandbox template id: host\nNo more items to fetch\n$
import { Sandbox, SandboxInfo } from 'stacyvm/e2b'

const sandbox = await Sandbox.create(
  {
    metadata: {
      name: 'My Sandbox',
    },
  },
)

const paginator = Sandbox.list()

// Get the first page of sandboxes (running and paused)
const firstPage: SandboxInfo[] = await paginator.nextItems()

const runningSandbox = firstPage[0]

console.log('Running sandbox metadata:', runningSandbox.metadata)
console.log('Running sandbox id:', runningSandbox.sandboxId)
console.log('Running sandbox started at:', runningSandbox.startedAt)
console.log('Running sandbox template id:', runningSandbox.templateId)

// Get the next page of sandboxes
await paginator.nextItems().catch((error) => console.log(error.message))
