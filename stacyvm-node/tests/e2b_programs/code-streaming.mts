// code-interpreting/streaming: output
// prints: ^stdout: This goes first to stdout\n\nstderr: This goes later to stderr\n true\nstdout: This goes last\n\n$
import { Sandbox } from 'stacyvm/e2b'

const codeToRun = `
import time
import sys
print("This goes first to stdout")
time.sleep(0.2)
print("This goes later to stderr", file=sys.stderr)
time.sleep(0.2)
print("This goes last")
`
const sandbox = await Sandbox.create()
await sandbox.runCode(codeToRun, {
  // Use `onError` to handle runtime code errors
  onError: error => console.error('error:', error),
  onStdout: data => console.log('stdout:', data.line),
  onStderr: data => console.log('stderr:', data.line, data.error),
})
