// migration/v2: list
// prints: ^true\n1\n1\n$
import { Sandbox, SandboxInfo } from 'stacyvm/e2b'

const made = await Sandbox.create({ metadata: { key: 'value' } })
await Sandbox.create()

// Get paginator
const paginator = Sandbox.list({ limit: 1 })

// Iterate through all sandboxes
for (const sandbox of await paginator.nextItems()) {
    console.log(sandbox.sandboxId !== made.sandboxId)
}

// Iterate through all sandboxes
const allSandboxes: SandboxInfo[] = []
while (paginator.hasNext) {
    const items = await paginator.nextItems()
    allSandboxes.push(...items)
}
console.log(allSandboxes.length)

// With query
const queryPaginator = Sandbox.list({query: {metadata: {key: "value"}}})
console.log((await queryPaginator.nextItems()).length)
