// sandbox/list: by metadata
// prints: ^\[ 'my-app' \]\n$
import { Sandbox } from 'stacyvm/e2b'

await Sandbox.create({ metadata: { env: 'prod', userId: '123' } })

// Create sandbox with metadata.
const sandbox = await Sandbox.create({
  metadata: {
    env: 'dev',
    app: 'my-app',
    userId: '123',
  },
})

// List all sandboxes that has `userId` key with value `123` and `env` key with value `dev`.
const paginator = Sandbox.list({
  query: {
    metadata: { userId: '123', env: 'dev' },
  },
})

const sandboxes = await paginator.nextItems()
console.log(sandboxes.map((one) => one.metadata.app))
