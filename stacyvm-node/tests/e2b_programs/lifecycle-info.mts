// sandbox: information
// prints: ^\{\n  sandboxId: 's\w+',\n  templateId: 'host',\n.*metadata: \{\},\n  startedAt: \d{4}-.*endAt: \d{4}-.*state: 'running',
import { Sandbox } from 'stacyvm/e2b'

// Create sandbox with and keep it running for 60 seconds.
const sandbox = await Sandbox.create({ timeoutMs: 60_000 })

// Retrieve sandbox information.
const info = await sandbox.getInfo()

console.log(info)
