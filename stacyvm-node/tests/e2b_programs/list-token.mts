// sandbox/list: from a token on
// prints: ^true\nstring\ntrue false undefined\n$
import { Sandbox } from 'stacyvm/e2b'

const made: string[] = []
for (let n = 0; n < 3; n++) made.push((await Sandbox.create()).sandboxId)
const first = Sandbox.list({ limit: 2 })
const newest = (await first.nextItems()).map((one) => one.sandboxId)

const paginator = Sandbox.list({
  limit: 100,
  nextToken: first.nextToken,
})

// Additional paginator properties
// Whether there is a next page
console.log(paginator.hasNext)

// Next page token
console.log(typeof paginator.nextToken)

// Fetch the next page
const oldest = (await paginator.nextItems()).map((one) => one.sandboxId)
const all = [...newest, ...oldest].join()
console.log(all === made.reverse().join(), paginator.hasNext, paginator.nextToken)
