// Code in interpreters, on the embedded provider.
import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { NotFoundError, Sandbox, TimeoutError, UnsupportedError } from 'stacyvm'

describe('code', () => {
  let sandbox
  before(async () => {
    sandbox = await Sandbox.create({ lifetime: 'attached' })
  })
  after(() => sandbox.kill())

  it('keeps its state', async () => {
    assert.equal((await sandbox.runCode('x = 20; x + 1')).text, '21')
    const { stdout, text, error, results } = await sandbox.runCode('print(x)')
    assert.deepEqual({ stdout, text, error, results }, { stdout: '20\n', text: null, error: null, results: [] })
  })

  it('tells what it raises and shows', async () => {
    const { error } = await sandbox.runCode('1 / 0')
    assert.equal(error.name, 'ZeroDivisionError')
    assert.match(error.traceback, /1 \/ 0/)
    const code = "class P:\n  def _repr_png_(self): return b'png'\ndisplay(P())\n[1, {'a': None}]"
    const [picture, value] = (await sandbox.runCode(code)).results
    assert.equal(Buffer.from(picture.png, 'base64').toString(), 'png')
    assert.deepEqual(JSON.parse(value.json), [1, { a: null }])
    assert.equal(value.isMainResult, true)
  })

  it('has contexts', async () => {
    const context = await sandbox.createCodeContext({ cwd: '/tmp' })
    assert.equal((await sandbox.runCode('import os; os.getcwd()', { context })).text, "'/tmp'")
    assert.ok((await sandbox.listCodeContexts()).some(({ id }) => id === context.id))
    await sandbox.removeCodeContext(context)
    await assert.rejects(sandbox.runCode('1', { context }), NotFoundError)
    await assert.rejects(sandbox.runCode('1', { language: 'cobol' }), UnsupportedError)
  })

  it('tells while it runs', async () => {
    const told = []
    const code = "import sys\nprint('a')\ndisplay(5)\nraise KeyError('k')"
    const { stdout } = await sandbox.runCode(code, {
      onStdout: (text) => told.push(text),
      onResult: ({ text }) => told.push(text),
      onError: ({ name }) => told.push(name),
    })
    assert.deepEqual(told.sort(), ['5', 'KeyError', 'a\n'])
    assert.equal(stdout, 'a\n')
  })

  it('that is late keeps its state', async () => {
    await assert.rejects(sandbox.runCode('x = 7\nimport time; time.sleep(60)', { timeoutMs: 300 }), TimeoutError)
    assert.equal((await sandbox.runCode('x')).text, '7')
  })

  it('ends with its signal', async () => {
    const signal = AbortSignal.timeout(500)
    const code = "import subprocess; subprocess.run(['sleep', '4731'])"
    await assert.rejects(sandbox.runCode(code, { signal }), { name: 'TimeoutError' })
    for (;;) {
      const all = await sandbox.processes()
      if (!all.some(({ argv }) => argv.includes('4731'))) break
    }
    assert.equal((await sandbox.runCode('1 + 1')).text, '2')
  })
})
