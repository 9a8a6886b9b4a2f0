// network/internet-access: deny all, by a function
// prints: ^true\n$
import { Sandbox } from 'stacyvm/e2b'

// Block all egress
const sandbox = await Sandbox.create({ network: { denyOut: ({ allTraffic }) => [allTraffic] } })
console.log(await sandbox.isRunning())
