// sandbox/list: all pages
// prints: ^3\n$
import { Sandbox, type SandboxInfo } from 'stacyvm/e2b'

for (let n = 0; n < 3; n++) await Sandbox.create()
const paginator = Sandbox.list({ limit: 2 })

// Loop through all pages
const sandboxes: SandboxInfo[] = []
while (paginator.hasNext) {
  const items = await paginator.nextItems()
  sandboxes.push(...items)
}
console.log(sandboxes.length)
