import assert from 'node:assert/strict'
import { CommandFailedError, CommandNotFoundError, CommandResult, InvalidArgumentError } from 'stacyvm'
import { argvs, everywhere, onEach, privileged, until } from './engines.mjs'

onEach('commands', (_, test) => {
  test('give what they say and how they end', async ({ sandbox }) => {
    const result = await sandbox.commands.run('echo hällo; echo no >&2; exit 3')
    assert.ok(result instanceof CommandResult)
    assert.equal(result.stdout, 'hällo\n')
    assert.equal(result.stderr, 'no\n')
    assert.deepEqual(result.stdoutBytes, Buffer.from('hällo\n'))
    assert.deepEqual(result.exit, { reason: 'code', exitCode: 3, signal: null })
    assert.equal(result.exitCode, 3)
    assert.equal(result.ok, false)
    assert.ok(result.durationMs > 0)
    assert.match(JSON.stringify(result), /"stdout":"hällo\\n"/)
    assert.equal((await sandbox.exec(['true'])).ok, true)
  })

  test('end by a signal or a deadline as a result', async ({ sandbox }) => {
    const killed = await sandbox.commands.run('kill -9 $$')
    assert.deepEqual(killed.exit, { reason: 'signal', exitCode: null, signal: 9 })
    assert.equal(killed.signal, 9)
    const late = await sandbox.commands.run('sleep 77 & sleep 78', { timeoutMs: 150 })
    assert.deepEqual(late.exit, { reason: 'timed_out', exitCode: null, signal: null })
    assert.deepEqual(await argvs(sandbox), [])
  })

  test('reject with `check`, unless they exit with 0', async ({ sandbox }) => {
    await assert.rejects(sandbox.commands.run('echo oops >&2; exit 2', { check: true }), (error) => {
      assert.ok(error instanceof CommandFailedError)
      assert.equal(error.code, 'command_failed')
      assert.equal(error.result.exitCode, 2)
      assert.match(error.message, /code 2: oops$/)
      return true
    })
    await assert.rejects(sandbox.exec(['sleep', '9'], { check: true, timeoutMs: 50 }), /timed out$/)
    assert.equal((await sandbox.commands.run('true', { check: true })).ok, true)
  })

  test('that do not exist are an error', async ({ sandbox }) => {
    await assert.rejects(sandbox.exec(['nonesuch']), CommandNotFoundError)
    await assert.rejects(
      sandbox.exec(['nonesuch'], { onStdout() {} }),
      { code: 'command_not_found', retryable: false, retryAfterMs: null },
    )
  })

  test('have input, variables, a directory and a user', async (given, context) => {
    if (!privileged(given, context)) return
    const { sandbox } = given
    assert.equal((await sandbox.exec(['cat'], { stdin: 'tëxt' })).stdout, 'tëxt')
    const bytes = Uint8Array.from([0, 255, 10])
    assert.deepEqual((await sandbox.exec(['cat'], { stdin: bytes })).stdoutBytes, Buffer.from(bytes))
    const how = { env: { WHO: 'me' }, cwd: '/tmp', user: 'root' }
    assert.equal((await sandbox.commands.run('echo $WHO; pwd; id -u', how)).stdout, 'me\n/tmp\n0\n')
    const argument = Buffer.from([0xff, 0x41])
    assert.deepEqual((await sandbox.exec(['printf', '%s', argument])).stdoutBytes, argument)
  })

  test('keep as much output as is asked for', async ({ sandbox }) => {
    const result = await sandbox.exec(['printf', '%s', '0123456789'], { maxOutput: 4 })
    assert.equal(result.stdout, '0123')
    assert.equal(result.stdoutTruncatedBytes, 6)
    await assert.rejects(sandbox.exec(['true'], { maxOutput: -1 }), InvalidArgumentError)
  })

  test('tell their output as it comes', async ({ sandbox }) => {
    const [out, err] = [[], []]
    const result = await sandbox.commands.run('echo ä; echo b >&2', {
      onStdout: (text) => out.push(text),
      onStderr: async (text) => err.push(text),
    })
    assert.equal(out.join(''), 'ä\n')
    assert.equal(err.join(''), 'b\n')
    assert.equal(result.stdout, 'ä\n')
  })

  test('are killed where the reader of their output throws', async ({ sandbox }) => {
    const failed = new Error('the reader')
    const onStdout = () => { throw failed }
    await assert.rejects(sandbox.commands.run('echo a; sleep 76', { onStdout }), failed)
    assert.deepEqual(await argvs(sandbox), [])
  })

  test('refuse options that nobody reads', async ({ sandbox }) => {
    await assert.rejects(sandbox.commands.run('true', { timeout: 5 }), (error) => {
      assert.ok(error instanceof InvalidArgumentError)
      assert.equal(error.context.field, 'timeout')
      assert.ok(error.context.expected && error.context.remedy)
      return true
    })
    const start = sandbox.commands.run('true', { background: true, onStdout() {} })
    await assert.rejects(start, InvalidArgumentError)
    await assert.rejects(sandbox.commands.run('true', { timeoutMs: -1 }), InvalidArgumentError)
  })
}, everywhere)

onEach('an AbortSignal', (_, test) => {
  test('kills the whole tree and is the rejection', async ({ sandbox }) => {
    const controller = new AbortController()
    const run = sandbox.commands.run('sleep 81 & setsid sleep 82 & wait', { signal: controller.signal })
    await until(async () => (await argvs(sandbox)).some((one) => one.includes('sleep 82')))
    controller.abort()
    await assert.rejects(run, { name: 'AbortError' })
    assert.deepEqual(await argvs(sandbox), [])
  })

  test('that is aborted already starts nothing', async ({ sandbox }) => {
    const before = (await sandbox.commands.list()).length
    const reason = new Error('never')
    const signal = AbortSignal.abort(reason)
    await assert.rejects(sandbox.commands.run('sleep 83', { signal }), reason)
    await assert.rejects(sandbox.commands.run('sleep 83', { signal, background: true }), reason)
    assert.equal((await sandbox.commands.list()).length, before)
  })

  test('keeps no listener, and does nothing afterwards', async ({ sandbox }) => {
    const controller = new AbortController()
    const { signal } = controller
    let listeners = 0
    signal.addEventListener = (add => (...all) => (listeners++, add.apply(signal, all)))(signal.addEventListener)
    signal.removeEventListener = (remove => (...all) => (listeners--, remove.apply(signal, all)))(signal.removeEventListener)
    assert.equal((await sandbox.commands.run('echo a', { signal })).stdout, 'a\n')
    await assert.rejects(sandbox.exec(['false'], { signal, check: true }), CommandFailedError)
    assert.equal(listeners, 0)
    controller.abort()
  })

  test('ends a wait for a background command', async ({ sandbox }) => {
    const handle = await sandbox.commands.run('echo a; sleep 84', { background: true })
    const read = []
    const signal = AbortSignal.timeout(200)
    await assert.rejects(handle.wait({ signal, onStdout: (text) => read.push(text) }), { name: 'TimeoutError' })
    assert.deepEqual(read, ['a\n'])
    assert.deepEqual(await argvs(sandbox), [])
  })
}, everywhere)

onEach('background commands', (_, test) => {
  test('are read, written to and waited for', async ({ sandbox }) => {
    const handle = await sandbox.commands.run('cat; echo end >&2', { background: true, stdin: true })
    assert.ok(handle.id)
    assert.ok(handle.pid > 0)
    assert.equal(handle.exit, null)
    await handle.sendStdin('one ')
    await handle.sendStdin(Buffer.from('twö'))
    await handle.closeStdin()
    const said = { stdout: '', stderr: '' }
    for await (const chunk of handle) {
      said.stdout += chunk.stdout ?? ''
      said.stderr += chunk.stderr ?? ''
    }
    assert.deepEqual(said, { stdout: 'one twö', stderr: 'end\n' })
    assert.equal((await handle.wait()).stdout, 'one twö')
    assert.deepEqual(handle.exit, { reason: 'code', exitCode: 0, signal: null })
  })

  test('never cut a character in two', async ({ sandbox }) => {
    const handle = await sandbox.commands.run(['cat'], { background: true, stdin: true })
    const euro = Buffer.from('€')
    const read = (async () => {
      const chunks = []
      for await (const { stdout } of handle) chunks.push(stdout)
      return chunks
    })()
    await handle.sendStdin(euro.subarray(0, 2))
    await new Promise((resolve) => setTimeout(resolve, 100))
    await handle.sendStdin(euro.subarray(2))
    await handle.sendStdin(Buffer.from([0xe2]))
    await handle.closeStdin()
    assert.equal((await read).join(''), '€\ufffd')
  })

  test('are found again, listed, signalled and killed', async ({ sandbox, engine }) => {
    const handle = await sandbox.commands.run('echo first; sleep 91', { background: true })
    await until(async () => (await argvs(sandbox)).some((one) => one.includes('sleep 91')))
    const other = await engine.connect(sandbox.id)
    const listed = (await other.commands.list()).find((one) => one.id === handle.id)
    assert.equal(listed.background, true)
    assert.equal(listed.exit, null)
    assert.ok(listed.started instanceof Date)
    const again = await other.commands.connect(handle.id)
    for await (const chunk of again) {
      assert.equal(chunk.stdout, 'first\n')
      break
    }
    await other.commands.kill(handle.id)
    assert.deepEqual((await again.wait()).exit.signal, 9)
    await handle.kill()

    const second = await sandbox.commands.run(['sleep', '92'], { background: true })
    await second.sendSignal('SIGTERM')
    assert.equal((await second.wait()).signal, 15)
    const third = await sandbox.commands.run(['sleep', '93'], { background: true })
    await sandbox.commands.sendSignal(third.id, 'SIGINT', { scope: 'tree' })
    assert.equal((await third.wait()).signal, 2)
    const fourth = await sandbox.commands.run(['sleep', '94'], { background: true })
    await fourth[Symbol.asyncDispose]()
    assert.equal((await fourth.wait()).signal, 9)
    await assert.rejects(second.sendSignal(1, { scope: 'house' }), InvalidArgumentError)
    await assert.rejects(sandbox.commands.connect('nonesuch'), { code: /^(not_found|invalid_argument)$/ })
  })
}, everywhere)

onEach(
  'terminals',
  (_, test) => {
    test('have a size, input and an end', async ({ sandbox }) => {
      const terminal = await sandbox.pty.create({ rows: 30, cols: 100, env: { PS1: '> ' } })
      assert.ok(terminal.id && terminal.pid > 0)
      await terminal.sendInput('stty size\n')
      let shown = ''
      for await (const bytes of terminal) {
        shown += bytes
        if (/\d+ \d+\r/.test(shown)) break
      }
      assert.match(shown, /30 100\r/)
      await terminal.resize(40, 120)
      await terminal.sendInput('stty size; exit 4\n')
      const result = await terminal.wait()
      assert.match(result.stdout, /40 120/)
      assert.equal(result.exitCode, 4)
    })

    test('end when they are killed or their wait is aborted', async ({ sandbox }) => {
      const first = await sandbox.pty.create({ cmd: ['sleep', '95'] })
      await first.kill()
      assert.equal((await first.wait()).signal, 9)
      const second = await sandbox.pty.create({ cmd: ['sleep', '96'] })
      await assert.rejects(second.wait({ signal: AbortSignal.timeout(50) }), { name: 'TimeoutError' })
      assert.deepEqual(await argvs(sandbox), [])
    })

    test('carry as much as is said', async ({ sandbox }) => {
      let bytes = 0
      const counted = await sandbox.commands.run('head -c 33554432 /dev/zero', {
        onStdout: (text) => { bytes += text.length },
      })
      assert.equal(bytes, 33554432)
      assert.equal(counted.stdoutBytes.length, 33554432)
    })
  },
  ['embedded', 'docker'],
)
