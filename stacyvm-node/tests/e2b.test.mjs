// E2B's names over stacyvm, beside what its documented programs show.
import assert from 'node:assert/strict'
import { execFile, spawnSync } from 'node:child_process'
import { chmodSync, copyFileSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { afterEach, describe, it as test } from 'node:test'
import { promisify } from 'node:util'
import * as stacyvm from 'stacyvm'
import * as e2b from 'stacyvm/e2b'
import { directory, dockerImage, dockerMissing, missing, until } from './engines.mjs'

const { Sandbox } = e2b
const run = promisify(execFile)
const it = (what, body) => test(what, { timeout: 60_000 }, body)

/** Names of E2B's packages `e2b` 2.51.0 and `@e2b/code-interpreter` 2.8.0. */
const OF_E2B = {
  module: `ALL_TRAFFIC AuthenticationError CommandExitError FileNotFoundError FileType FilesystemEventType
    InvalidArgumentError NotEnoughSpaceError NotFoundError RateLimitError Sandbox SandboxError
    SandboxNotFoundError ServiceBusyError TemplateError TimeoutError default`,
  /** Of its cloud: templates, volumes, secrets, git, clients. */
  absent: `ApiClient BuildError ConnectionConfig E2B FileUploadError Git GitAuthError GitUpstreamError LogEntry
    LogEntryEnd LogEntryStart ReadyCmd Secret SecretError SecretNotFoundError SecretPaginator Template
    TemplateBase Volume VolumeError VolumeFileType VolumeNotFoundError VolumePathNotFoundError
    defaultBuildLogger getSignature waitForFile waitForPort waitForProcess waitForTimeout waitForURL`,
  static: `betaPause connect create createSnapshot defaultTemplate deleteSnapshot fork getFullInfo getInfo getMetrics
    kill list listSnapshots pause setTimeout updateNetwork`,
  sandbox: `betaPause connect createCodeContext createSnapshot downloadUrl fork getHost getInfo getMcpToken getMcpUrl
    getMetrics git isRunning kill listCodeContexts listSnapshots pause removeCodeContext restartCodeContext
    runCode setTimeout updateNetwork uploadUrl commands files pty sandboxId trafficAccessToken`,
  commands: 'closeStdin connect kill list run sendStdin',
  files: 'exists getInfo list makeDir read remove rename watchDir write writeFiles',
  pty: 'connect create kill resize sendInput',
  handle: 'closeStdin disconnect error exitCode kill pid sendStdin stderr stdout wait',
  watch: 'stop',
  paginator: 'hasNext nextItems nextToken',
}

const words = (text) => text.split(/\s+/)
const named = (made) => {
  const names = new Set(Object.keys(made))
  for (let of = Object.getPrototypeOf(made); of !== Object.prototype; of = Object.getPrototypeOf(of)) {
    for (const name of Object.getOwnPropertyNames(of)) names.add(name)
  }
  return names
}

/** What rejects, or throws at once. */
const thrown = async (work) => {
  try {
    await work()
  } catch (error) {
    return error
  }
  throw new assert.AssertionError({ message: 'nothing was thrown' })
}

it('ESM and CommonJS give the same classes', () => {
  const common = createRequire(import.meta.url)('stacyvm/e2b')
  for (const name of Object.keys(common)) if (name !== '__esModule') assert.equal(e2b[name], common[name], name)
  assert.equal(e2b.default, Sandbox)
})

it('the module has the names of E2B, and what is of its cloud is absent', () => {
  const here = Object.keys(e2b).filter((name) => /^[A-Za-z]/.test(name))
  assert.deepEqual(here.sort(), [...words(OF_E2B.module), 'NotSupportedError'].sort())
  for (const name of words(OF_E2B.absent)) assert.ok(!(name in e2b), name)
})

describe('over the embedded provider', { skip: missing }, () => {
  const sleeping = async (sandbox) => (await sandbox.commands.list()).length

  afterEach(async () => {
    const paginator = Sandbox.list()
    while (paginator.hasNext) for (const info of await paginator.nextItems()) await Sandbox.kill(info.sandboxId)
  })

  it('classes have the names of E2B', async () => {
    const sandbox = await Sandbox.create()
    const handle = await sandbox.commands.run('sleep 60', { background: true })
    const watch = await sandbox.files.watchDir('/tmp', () => {})
    const { commands, files, pty } = sandbox
    const made = { sandbox, commands, files, pty, handle, watch, paginator: Sandbox.list() }
    for (const [which, one] of Object.entries(made)) {
      for (const name of words(OF_E2B[which])) assert.ok(named(one).has(name), `${which}.${name}`)
    }
    for (const name of words(OF_E2B.static)) assert.ok(name in Sandbox, `Sandbox.${name}`)
    await watch.stop()
    await handle.kill()
  })

  it('errors are both of E2B and of stacyvm', async () => {
    const sandbox = await Sandbox.create()
    const error = await thrown(() => sandbox.files.read('nothing.txt'))
    for (const made of [e2b.FileNotFoundError, e2b.NotFoundError, e2b.SandboxError, stacyvm.StacyError, Error]) {
      assert.ok(error instanceof made, made.name)
    }
    assert.ok(error.cause instanceof stacyvm.NotFoundError)
    assert.deepEqual([error.code, error.context.path], ['not_found', '/home/user/nothing.txt'])
    assert.match(error.stack, /^FileNotFoundError: .*\n +at .*e2b\.test\.mjs|at async .*e2b\.test\.mjs/)
    await assert.rejects(sandbox.files.read('/home'), e2b.InvalidArgumentError)
    await assert.rejects(sandbox.files.watchDir('/etc/passwd', () => {}), e2b.InvalidArgumentError)
    await assert.rejects(sandbox.files.write('a', undefined), /data of a file is a value of type undefined/)
    await assert.rejects(sandbox.files.list('/', { depth: 0 }), /depth is 0, expected at least one/)
    assert.equal(await sandbox.kill(), true)
    for (const call of [() => sandbox.files.read('/etc/passwd'), () => sandbox.commands.run('true')]) {
      const gone = await thrown(call)
      assert.ok(gone instanceof e2b.TimeoutError, gone.stack)
      assert.equal(gone.code, 'sandbox_gone')
    }
    for (const call of [() => sandbox.getInfo(), () => sandbox.pause(), () => sandbox.setTimeout(9000)]) {
      assert.ok((await thrown(call)) instanceof e2b.SandboxNotFoundError)
    }
    for (const id of [sandbox.sandboxId, 's'.repeat(20), 'no id']) {
      await assert.rejects(Sandbox.connect(id), e2b.SandboxNotFoundError)
    }
  })

  it('a killed command is told as E2B tells it', async () => {
    const sandbox = await Sandbox.create()
    const command = await sandbox.commands.run('echo before; sleep 60', { background: true })
    await until(() => command.stdout === 'before\n')
    assert.equal(command.exitCode, undefined)
    assert.equal(await command.kill(), true)
    const error = await thrown(() => command.wait())
    assert.ok(error instanceof e2b.CommandExitError)
    assert.deepEqual([error.exitCode, error.error, error.message, error.stdout], [-1, 'signal: killed', 'signal: killed', 'before\n'])
    assert.deepEqual([command.exitCode, command.error, error.code], [-1, 'signal: killed', 'command_failed'])
  })

  it('handles of one command each see all of it', async () => {
    const sandbox = await Sandbox.create()
    const command = await sandbox.commands.run('read line; seq 20000', { background: true, stdin: true })
    const same = await Sandbox.connect(sandbox.sandboxId)
    const others = await Promise.all([1, 2, 3].map(() => same.commands.connect(command.pid)))
    await others[0].sendStdin('go\n')
    const results = await Promise.all([command, ...others].map((handle) => handle.wait()))
    assert.equal(new Set(results.map(({ stdout }) => stdout)).size, 1)
    assert.ok(results[0].stdout.endsWith('\n20000\n'))
  })

  it('commands are told apart by their pids', async () => {
    const sandbox = await Sandbox.create()
    const cat = () => sandbox.commands.run('cat', { background: true, stdin: true })
    const [first, second, third] = [await cat(), await cat(), await cat()]
    await sandbox.commands.sendStdin(second.pid, 'for the second')
    await sandbox.commands.closeStdin(second.pid)
    assert.equal((await second.wait()).stdout, 'for the second')
    assert.equal(await sandbox.commands.kill(third.pid), true)
    assert.deepEqual((await sandbox.commands.list()).map(({ pid }) => pid), [first.pid])
    await first.kill()
  })

  it('a command that nobody follows goes on, and is found by its pid', async () => {
    const sandbox = await Sandbox.create()
    const said = []
    const left = await sandbox.commands.run('cat', { background: true, stdin: true, onStdout: (text) => said.push(text) })
    await left.disconnect()
    await sandbox.commands.sendStdin(left.pid, 'one ')
    await left.sendStdin('two ')
    const handle = await sandbox.commands.connect(left.pid)
    await sandbox.commands.sendStdin(left.pid, 'three')
    await sandbox.commands.closeStdin(left.pid)
    assert.ok((await handle.wait()).stdout.endsWith('three'))
    await assert.rejects(left.wait(), /followed no more; connect to it again/)
    assert.deepEqual(said, [])
  })

  it('who connects to a command sees what comes from then on', async () => {
    const sandbox = await Sandbox.create()
    const first = await sandbox.commands.run('echo before; read line; echo after', { background: true, stdin: true })
    await until(() => first.stdout === 'before\n')
    const beside = await sandbox.commands.connect(first.pid)
    await Promise.all([first.disconnect(), beside.disconnect()])
    const handle = await sandbox.commands.connect(first.pid)
    await handle.sendStdin('\n')
    assert.equal((await handle.wait()).stdout, 'after\n')
    assert.deepEqual([first.stdout, beside.stdout], ['before\n', ''])
  })

  it('a handle that is disconnected beside another has no result', async () => {
    const sandbox = await Sandbox.create()
    const first = await sandbox.commands.run('read line', { background: true, stdin: true })
    const beside = await sandbox.commands.connect(first.pid)
    await beside.disconnect()
    await first.sendStdin('\n')
    assert.equal((await first.wait()).exitCode, 0)
    await assert.rejects(beside.wait(), /followed no more; connect to it again/)
    assert.equal(beside.exitCode, undefined)
  })

  it('a sandbox that is paused has no end until it is connected to', async () => {
    const sandbox = await Sandbox.create({ timeoutMs: 10_000 })
    assert.equal(await Sandbox.pause(sandbox.sandboxId), true)
    assert.equal((await sandbox.getInfo()).endAt.getTime(), 8.64e15)
    await sandbox.connect({ timeoutMs: 20_000 })
    const { endAt, state } = await sandbox.getInfo()
    assert.equal(state, 'running')
    assert.ok(Math.abs(endAt.getTime() - Date.now() - 20_000) < 5_000)
  })

  it('times and pages that make no sense are refused by name', async () => {
    const sandbox = await Sandbox.create()
    const refused = (field, work) =>
      assert.rejects(work, (error) => error instanceof e2b.InvalidArgumentError && error.message.includes(field))
    for (const timeoutMs of [Number.NaN, -1, null]) {
      await refused('timeoutMs', () => sandbox.setTimeout(timeoutMs))
      if (timeoutMs === null) continue
      await refused('timeoutMs', () => sandbox.commands.run('true', { timeoutMs }))
      await refused('timeoutMs', () => sandbox.runCode('1', { timeoutMs }))
      await refused('timeoutMs', () => sandbox.files.watchDir('/', () => {}, { timeoutMs }))
    }
    for (const limit of [-1, 0, 1.5]) await refused('limit', () => Sandbox.list({ limit }).nextItems())
    await refused('nextToken', () => Sandbox.list({ nextToken: 'zzz' }).nextItems())
    assert.equal(await sandbox.isRunning(), true)
    await sandbox.setTimeout(0)
    assert.equal(await sandbox.isRunning(), false)
  })

  it('a create that is aborted ends nobody else\'s sandbox', async () => {
    const first = await Sandbox.create({ idempotencyKey: 'one' })
    const controller = new AbortController()
    const again = Sandbox.create({ idempotencyKey: 'one', signal: controller.signal })
    controller.abort()
    await again.then(() => {}, (error) => assert.equal(error.name, 'AbortError'))
    assert.equal(await first.isRunning(), true)
    const late = Sandbox.create({ metadata: { of: 'aborted' }, signal: AbortSignal.timeout(1) })
    await assert.rejects(late, { name: 'TimeoutError' })
    assert.deepEqual(await Sandbox.list({ query: { metadata: { of: 'aborted' } } }).nextItems(), [])
  })

  it('a connect that fails leaves a paused sandbox paused', async () => {
    const sandbox = await Sandbox.create()
    await sandbox.pause()
    for (const timeoutMs of [-5, 1e300]) await assert.rejects(Sandbox.connect(sandbox.sandboxId, { timeoutMs }))
    assert.equal((await sandbox.getInfo()).state, 'paused')
  })

  it('input of another handle leaves the result to who runs the command', async () => {
    const sandbox = await Sandbox.create()
    const run = sandbox.commands.run('cat', { stdin: true })
    const [{ pid }] = await until(async () => {
      const found = await sandbox.commands.list()
      return found.length > 0 && found
    })
    await sandbox.commands.sendStdin(pid, 'it\n')
    await sandbox.commands.closeStdin(pid)
    assert.equal((await run).stdout, 'it\n')
    const plain = sandbox.commands.run('sleep 0.5; echo ok')
    await until(async () => (await sandbox.commands.list()).length > 0)
    await sandbox.commands.closeStdin((await sandbox.commands.list())[0].pid).catch(() => {})
    assert.equal((await plain).stdout, 'ok\n')
  })

  it('who listens to the end of a watch may throw', async () => {
    const sandbox = await Sandbox.create()
    const failed = []
    const note = (error) => failed.push(error)
    process.on('unhandledRejection', note)
    let told = 0
    const watch = await sandbox.files.watchDir('/', () => {}, {
      onExit() { told += 1; throw new Error('of the user') },
    })
    await watch.stop()
    await until(() => told === 1)
    await new Promise((done) => setTimeout(done, 50))
    process.off('unhandledRejection', note)
    assert.deepEqual(failed, [])
  })

  it('a result that is no JSON is text', async () => {
    const sandbox = await Sandbox.create()
    await sandbox.runCode('kept = 7')
    const shown = 'class N:\n def _repr_json_(self): return {"a": float("nan")}\nN()'
    assert.equal(typeof (await sandbox.runCode(shown)).results[0].json, 'string')
    assert.equal((await sandbox.runCode('kept')).text, '7')
  })

  it('a program ends by itself once it follows nothing', async () => {
    const program = `
      import { Sandbox } from 'stacyvm/e2b'
      const sandbox = await Sandbox.create()
      const command = await sandbox.commands.run('sleep 60', { background: true })
      await command.disconnect()
      console.log(command.pid, (await sandbox.commands.list()).length)
    `
    const begun = Date.now()
    const node = ['--input-type=module', '--eval', program]
    const { stdout } = await run(process.execPath, node, { cwd: new URL('.', import.meta.url).pathname })
    assert.match(stdout, /^\d+ 1\n$/)
    assert.ok(Date.now() - begun < 30_000)
  })

  it('an aborted signal takes the command along', async () => {
    const sandbox = await Sandbox.create()
    for (const opts of [{}, { onStdout() {} }, { stdin: true }]) {
      const controller = new AbortController()
      const running = sandbox.commands.run('sleep 60', { ...opts, signal: controller.signal })
      await until(() => sleeping(sandbox))
      controller.abort()
      await assert.rejects(running, { name: 'AbortError' })
      await until(async () => (await sleeping(sandbox)) === 0)
    }
    const early = AbortSignal.abort()
    await assert.rejects(sandbox.commands.run('sleep 60', { background: true, signal: early }), { name: 'AbortError' })
    await assert.rejects(Sandbox.create({ signal: early }), { name: 'AbortError' })
    assert.equal(await sleeping(sandbox), 0)
  })

  it('who listens and throws ends the command that is waited for', async () => {
    const sandbox = await Sandbox.create()
    const onStdout = async () => {
      throw new Error('reader')
    }
    await assert.rejects(sandbox.commands.run('echo a; sleep 60', { onStdout }), { message: 'reader' })
    await until(async () => (await sleeping(sandbox)) === 0)
  })

  it('what is not offered says what to use', async () => {
    const sandbox = await Sandbox.create()
    const calls = {
      'publishes ports': () => sandbox.getHost(3000),
      'files.read': () => sandbox.downloadUrl('demo.txt'),
      'files.write': () => sandbox.uploadUrl('demo.txt'),
      'git ...': () => sandbox.git,
      'make another one': () => sandbox.fork(),
      'createCodeContext()': () => sandbox.restartCodeContext('x'),
      'no MCP gateway': () => sandbox.getMcpUrl(),
      'create({ network })': () => Sandbox.updateNetwork(sandbox.sandboxId, {}),
      'keep the ids': () => Sandbox.listSnapshots(),
      'tools of its provider': () => Sandbox.deleteSnapshot('x'),
      'pause()` before it': () => Sandbox.betaCreate({ autoPause: true }),
      allowOut: () => Sandbox.create({ network: { denyOut: ['8.8.8.8'] } }),
      'network.egressProxy': () => Sandbox.create({ network: { egressProxy: { address: 'x:1' } } }),
      'killed at its timeout': () => Sandbox.create({ lifecycle: { onTimeout: { action: 'pause' } } }),
      'commands.run': () => Sandbox.create({ mcp: { duckduckgo: {} } }),
      'mounts: ': () => Sandbox.create({ volumeMounts: { '/data': 'volume' } }),
      network_full: () => Sandbox.create({ allowInternetAccess: true }),
      'Sandbox.create({ image })': () => Sandbox.create('my-template'),
      snapshot_disk: () => sandbox.createSnapshot(),
      'keep `snapshotId`': () => sandbox.createSnapshot({ name: 'a' }),
      'leave `keepMemory` out': () => sandbox.pause({ keepMemory: false }),
      'kill it to reboot': () => sandbox.connect({ onResume: 'reboot' }),
      'metadata of files': () => sandbox.files.write('a', 'b', { metadata: { k: 'v' } }),
      environ: () => sandbox.runCode('1', { envs: { A: 'b' } }),
    }
    for (const [what, call] of Object.entries(calls)) {
      const error = await thrown(call)
      assert.ok(error instanceof e2b.NotSupportedError, error.stack)
      assert.ok(error.message.includes(what), error.message)
      assert.equal(error.code, 'unsupported')
    }
    assert.throws(() => new Sandbox(), /use Sandbox\.create\(\)/)
    for (const call of [() => Sandbox.create({ tiemoutMs: 3 }), () => sandbox.commands.run('true', { tiemoutMs: 3 })]) {
      const error = await thrown(call)
      assert.ok(error instanceof e2b.InvalidArgumentError)
      assert.equal(error.context.field, 'tiemoutMs')
    }
    const taken = { apiKey: 'e2b_0', requestTimeoutMs: 30, domain: 'e2b.app', logger: console, retries: 1 }
    assert.equal(await (await Sandbox.create(taken)).kill({ requestTimeoutMs: 3 }), true)
  })

  it('a class of its own is what it makes', async () => {
    class Mine extends Sandbox {
      static defaultTemplate = 'code-interpreter-v1'
    }
    const made = await Mine.create()
    assert.ok(made instanceof Mine)
    assert.equal((await made.commands.run('echo $E2B_TEMPLATE_ID')).stdout, 'code-interpreter-v1\n')
    assert.ok((await Mine.connect(made.sandboxId)) instanceof Mine)
  })

  it('a watch ends at its timeout, by who listens, or when it is stopped', async () => {
    const sandbox = await Sandbox.create()
    const ended = (onEvent, opts) =>
      new Promise((resolve, reject) => {
        const handle = sandbox.files.watchDir('/home/user', (event) => onEvent(event, handle), { ...opts, onExit: resolve })
        handle.catch(reject)
      })
    const late = await ended(() => {}, { timeoutMs: 50 })
    assert.ok(late instanceof e2b.TimeoutError)
    assert.match(late.message, /`timeoutMs` makes it longer/)
    const failed = ended(() => {
      throw new Error('listener')
    })
    const stopped = ended(async (_, handle) => (await handle).stop(), { timeoutMs: 0 })
    await sandbox.files.makeDir('made')
    assert.equal((await failed).message, 'listener')
    assert.equal(await stopped, undefined)
  })

  it('code that is late, of another language, or raises', async () => {
    const sandbox = await Sandbox.create()
    await assert.rejects(sandbox.runCode('import time; time.sleep(60)', { timeoutMs: 300 }), e2b.TimeoutError)
    await assert.rejects(sandbox.runCode('1', { language: 'javascript' }), /javascript/)
    const context = await sandbox.createCodeContext()
    assert.equal(context.cwd, '/home/user')
    await assert.rejects(sandbox.runCode('1', { context, language: 'python' }), e2b.InvalidArgumentError)
    const told = []
    const { error, text } = await sandbox.runCode("raise ValueError('no')", { onError: (raised) => told.push(raised) })
    assert.deepEqual([error.name, error.value, text, told.length], ['ValueError', 'no', undefined, 1])
    assert.match(error.traceback, /^Traceback/)
  })

  it('output and files that are not UTF-8 are replaced where they are broken', async () => {
    const sandbox = await Sandbox.create()
    const line = `printf '${'a'.repeat(8191)}\\xe2'`
    const expected = `${'a'.repeat(8191)}\ufffd`
    assert.equal((await sandbox.commands.run(line)).stdout, expected)
    const handle = await sandbox.commands.run(line, { background: true })
    assert.equal((await handle.wait()).stdout, expected)
    await sandbox.commands.run("printf '\\xe2' > broken; chmod 4750 broken")
    assert.equal(await sandbox.files.read('broken'), '\ufffd')
    assert.equal((await sandbox.files.getInfo('broken')).permissions, '-rwsr-x---')
  })

  it('an image without the user and without bash', async (context) => {
    const busybox = '/usr/bin/busybox'
    if (spawnSync(busybox, ['true']).status !== 0 || spawnSync('ldd', [busybox]).status === 0) {
      return context.skip('not run: needs a static busybox')
    }
    const root = directory()
    chmodSync(root, 0o755)
    for (const name of ['bin', 'etc', 'tmp', 'proc', 'dev', 'sys']) mkdirSync(join(root, name))
    copyFileSync(busybox, join(root, 'bin/busybox'))
    for (const tool of ['sh', 'id', 'chmod']) symlinkSync('busybox', join(root, 'bin', tool))
    writeFileSync(join(root, 'etc/passwd'), 'root:x:0:0:root:/root:/bin/sh\n')
    const sandbox = await Sandbox.create({ image: root })
    const { stdout } = await sandbox.commands.run('id -u; pwd; echo $0', { user: 'user' })
    assert.deepEqual(stdout.trim().split('\n'), ['1000', '/home/user', '/bin/sh'])
    await sandbox.files.write('a.txt', 'x', { user: 'user' })
    assert.equal((await sandbox.files.getInfo('a.txt')).owner, '1000')
  })
})

it('ports, pauses and snapshots of a Docker engine', async (context) => {
  const image = dockerImage
  if (dockerMissing) return context.skip(dockerMissing)
  const sandbox = await Sandbox.create({ provider: 'docker', image, allowInternetAccess: true, ports: [{ guest: 3000 }] })
  try {
    await sandbox.files.write('index.html', 'from inside')
    const server = await sandbox.commands.run('busybox httpd -f -p 3000', { background: true, timeoutMs: 0 })
    assert.match(sandbox.getHost(3000), /^127\.0\.0\.1:\d+$/)
    const line = 'until wget -qO- http://127.0.0.1:3000/index.html; do sleep 0.05; done'
    assert.equal((await sandbox.commands.run(line)).stdout, 'from inside')
    assert.equal(await sandbox.pause(), true)
    assert.equal((await sandbox.getInfo()).endAt.getTime(), 8.64e15)
    assert.equal(await (await sandbox.connect({ timeoutMs: 60_000 })).isRunning(), true)
    const snapshot = await sandbox.createSnapshot()
    const another = await Sandbox.create(snapshot.snapshotId, { provider: 'docker' })
    assert.equal(await another.files.read('index.html'), 'from inside')
    await another.kill()
    await server.kill()
  } finally {
    await sandbox.kill()
  }
})
