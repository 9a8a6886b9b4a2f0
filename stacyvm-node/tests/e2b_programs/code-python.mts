// code-interpreting/supported-languages/python: Python
// prints: ^Execution \{\n  results: \[\],\n  logs: \{ stdout: \[ 'Hello, world!\\n' \], stderr: \[\] \},\n  error: undefined,
import { Sandbox } from 'stacyvm/e2b'

const sbx = await Sandbox.create()
const execution = await sbx.runCode('print("Hello, world!")')
console.log(execution)
