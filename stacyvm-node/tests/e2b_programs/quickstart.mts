// quickstart: run code, list the root directory
// prints: ^\{ stdout: \[ 'hello world\\n' \], stderr: \[\] \}\n\[.*'bin'.*'home'.*'tmp'.*\]\n$
import { Sandbox } from 'stacyvm/e2b'

const sbx = await Sandbox.create() // By default the sandbox is alive for 5 minutes
const execution = await sbx.runCode('print("hello world")') // Execute Python inside the sandbox
console.log(execution.logs)

const files = await sbx.files.list('/')
console.log(files.map((file) => file.name))
