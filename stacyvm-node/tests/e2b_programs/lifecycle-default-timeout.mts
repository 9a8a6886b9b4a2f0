// sandbox: the default of five minutes
// prints: ^300\n$
import { Sandbox } from 'stacyvm/e2b'

const sbx = await Sandbox.create() // By default the sandbox is alive for 5 minutes
const info = await sbx.getInfo()
console.log(Math.round((info.endAt.getTime() - info.startedAt.getTime()) / 1000))
