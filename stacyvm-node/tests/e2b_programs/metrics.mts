// sandbox/metrics: by sandbox and by id
// prints: ^Sandbox created s\w+\nSandbox metrics: \[\n  \{\n    timestamp: \d{4}-.*cpuUsedPct: [\d.]+,\n    cpuCount: \d+,\n    memUsed: \d{5,},\n    memTotal: \d{9,},.*\]\ntrue\n$
import { Sandbox } from 'stacyvm/e2b'

const sbx = await Sandbox.create()
console.log('Sandbox created', sbx.sandboxId)

// Wait for a few seconds to collect some metrics
await new Promise((resolve) => setTimeout(resolve, 200))

const metrics = await sbx.getMetrics()

// You can also get the metrics by sandbox ID:
const same = await Sandbox.getMetrics(sbx.sandboxId)

console.log('Sandbox metrics:', metrics)
console.log(same[0].memUsed > 0)
