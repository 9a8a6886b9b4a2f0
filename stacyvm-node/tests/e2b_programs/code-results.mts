// code-interpreting/streaming: results
// prints: ^result: \[ 'png' \]\nresult: \[ 'json' \]\n\{ a: 1 \} cG5n\n$
import { Sandbox } from 'stacyvm/e2b'

const codeToRun = `
class Chart:
    def _repr_png_(self):
        return b'png'

display(Chart())
{'a': 1}
`
const sandbox = await Sandbox.create()
const execution = await sandbox.runCode(codeToRun, {
  onResult: result => console.log('result:', result.formats()),
})
console.log(execution.results[1].json, execution.results[0].png)
