// What is left of a program, and what a program keeps: loops, threads, memory.
import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { describe, it } from 'node:test'
import { promisify } from 'node:util'
import { Worker } from 'node:worker_threads'
import { Engine, Sandbox } from 'stacyvm'
import { argvs, missing, until } from './engines.mjs'

const run = promisify(execFile)
const cwd = import.meta.dirname ?? new URL('.', import.meta.url).pathname
const program = (source) => ['--input-type=module', '--eval', `import { Engine, Sandbox } from 'stacyvm'\n${source}`]
const node = (source, options) => run(process.execPath, program(source), { cwd, timeout: 30_000, ...options })

/** Starts a program and gives the first line that it says. */
async function started(source) {
  const child = spawn(process.execPath, program(source), { cwd, stdio: ['ignore', 'pipe', 'inherit'] })
  const [line] = await once(createInterface(child.stdout), 'line')
  return { child, line }
}

const ended = async (id) => (await (await Sandbox.connect(id)).getInfo()).phase === 'ended'

describe('a program', () => {
  it('ends by itself when nothing is pending', async () => {
    const { stdout } = await node(`
      const engine = Engine.mock()
      const sandbox = await engine.create({ image: 'scratch' })
      const watch = await sandbox.files.watchDir('/')
      const handle = await sandbox.commands.run('cat', { background: true, stdin: true })
      for await (const one of engine.list()) console.log(one.phase)
      globalThis.kept = [watch, handle]
    `)
    assert.equal(stdout, 'running\n')
  })

  it('is ended by a rejection that nobody handles only where it is its own', async () => {
    const { stdout } = await node(`
      import { setTimeout as sleep } from 'node:timers/promises'
      process.on('unhandledRejection', (reason) => console.log('unhandled', reason))
      const sandbox = await Engine.mock().create({ image: 'scratch' })
      const background = await sandbox.commands.run('sleep 9', { background: true })
      const controller = new AbortController()
      const runs = [
        sandbox.commands.run('sleep 9', { signal: controller.signal }),
        sandbox.commands.run('sleep 9', { signal: controller.signal, onStdout() {} }),
        sandbox.commands.run('echo a; sleep 9', { onStdout() { throw new Error('reader') } }),
        sandbox.files.write('/workspace/a', (async function* () { throw new Error('source') })()),
        sandbox.exec(['nonesuch'], { signal: controller.signal }),
        background.wait({ signal: controller.signal }),
      ]
      setTimeout(() => controller.abort(), 50)
      console.log((await Promise.allSettled(runs)).map((one) => one.reason?.name).join(' '))
      await sandbox.kill()
      await sleep(50)
    `)
    assert.equal(stdout, 'AbortError AbortError Error Error CommandNotFoundError AbortError\n')
  })

  it('loads and opens nothing before the first call', async () => {
    const { stdout } = await node(`
      new Engine({ config: '/nonexistent' })
      console.log(Sandbox.name)
    `)
    assert.equal(stdout, 'Sandbox\n')
  })
})

describe('what a program leaves of the embedded provider', { skip: missing }, () => {
  it('is nothing of an attached sandbox when it ends', async () => {
    const { stdout } = await node(`
      const sandbox = await Sandbox.create({ lifetime: 'attached' })
      await sandbox.commands.run('sleep 61', { background: true })
      console.log(sandbox.id)
    `)
    await until(() => ended(stdout.trim()), 'the sandbox is still there')
  })

  it('is nothing of an attached sandbox when it is killed', async () => {
    const { child, line } = await started(`
      const sandbox = await Sandbox.create({ lifetime: 'attached' })
      console.log(sandbox.id)
      await sandbox.commands.run('sleep 62')
    `)
    child.kill('SIGKILL')
    await once(child, 'exit')
    await until(() => ended(line), 'the sandbox is still there')
  })

  it('is nothing of one that it made its own when it is killed', async () => {
    const { child, line } = await started(`
      const sandbox = await Sandbox.create()
      await sandbox.setLifetime('detached')
      await assert.rejects(sandbox.setLifetime('endless'), { code: 'invalid_argument' })
      await sandbox.setLifetime('attached')
      console.log(sandbox.id)
      await sandbox.commands.run('sleep 65')
    `)
    child.kill('SIGKILL')
    await once(child, 'exit')
    await until(() => ended(line), 'the sandbox is still there')
  })

  it('is a detached sandbox, without the commands that it waited for', async () => {
    const { child, line } = await started(`
      const sandbox = await Sandbox.create()
      await sandbox.commands.run('sleep 64', { background: true })
      sandbox.commands.run('sleep 63 & sleep 63')
      while ((await sandbox.processes()).filter((one) => one.argv[1] === '63').length < 2);
      console.log(sandbox.id)
      process.exit(0)
    `)
    if (child.exitCode === null) await once(child, 'exit')
    assert.equal(child.exitCode, 0)
    const sandbox = await Sandbox.connect(line)
    assert.equal(await sandbox.isRunning(), true)
    const waitedFor = async () => (await argvs(sandbox)).filter((one) => one.includes('63'))
    await until(async () => (await waitedFor()).length === 0, 'the command goes on')
    assert.ok((await argvs(sandbox)).some((one) => one.includes('sleep 64')))
    assert.equal(await sandbox.kill(), true)
  })
})

describe('worker threads', { skip: missing }, () => {
  const worker = (source, sandboxId) =>
    new Worker(`import('stacyvm').then(async ({ Engine, Sandbox }) => {
      const { parentPort, workerData } = await import('node:worker_threads')
      ${source}
    })`, { eval: true, workerData: sandboxId })

  it('have sandboxes of their own and end', async () => {
    const workers = [1, 2, 3].map(() => worker(`
      const sandbox = await Sandbox.create()
      const { stdout } = await sandbox.commands.run('echo from a worker')
      const error = await Sandbox.connect('nonesuch').catch((error) => error.name)
      parentPort.postMessage([stdout, error, await sandbox.kill()])
    `))
    const said = await Promise.all(workers.map(async (one) => {
      const exits = once(one, 'exit')
      const [message] = await once(one, 'message')
      return [...message, (await exits)[0]]
    }))
    for (const one of said) assert.deepEqual(one, ['from a worker\n', 'NotFoundError', true, 0])
  })

  it('that are terminated kill the commands that they wait for', async () => {
    const sandbox = await Sandbox.create({ lifetime: 'attached' })
    const one = worker(`
      const sandbox = await Sandbox.connect(workerData)
      sandbox.commands.run('sleep 65 & sleep 65')
      const next = sandbox.files.watchDir('/workspace').then((watch) => watch[Symbol.asyncIterator]().next())
      parentPort.postMessage('started')
      await next
    `, sandbox.id)
    await once(one, 'message')
    await until(async () => (await argvs(sandbox)).filter((line) => line === 'sleep 65').length === 2)
    await one.terminate()
    await until(async () => (await argvs(sandbox)).length === 0, 'the command goes on')
    assert.equal((await sandbox.commands.run('echo still here')).stdout, 'still here\n')
    await sandbox.kill()
  })
})

describe('a long life', () => {
  it('of 1000 creates and kills keeps memory and descriptors flat', async () => {
    const { stdout } = await node(`
      import { readdirSync } from 'node:fs'
      const engine = Engine.mock()
      async function lives(times) {
        for (let n = 0; n < times; n++) {
          const sandbox = await engine.create({ image: 'scratch' })
          await sandbox.commands.run('echo hello')
          await sandbox.files.write('/workspace/file', 'text')
          await sandbox.kill()
        }
        gc()
        await new Promise(setImmediate)
        gc()
        return { rss: process.memoryUsage().rss, descriptors: readdirSync('/proc/self/fd').length }
      }
      const [, before, after] = [await lives(300), await lives(200), await lives(1000)]
      console.log(JSON.stringify({ before, after }))
    `, { env: { ...process.env, NODE_OPTIONS: '--expose-gc' } })
    const { before, after } = JSON.parse(stdout)
    assert.equal(after.descriptors, before.descriptors)
    const grown = (after.rss - before.rss) / 1024 / 1000
    assert.ok(grown < 16, `${grown} KiB for each life`)
  })

  it('of much that is read gives its memory back', async () => {
    const sandbox = await Engine.mock().create({ image: 'scratch' })
    await sandbox.files.write('/workspace/big', Buffer.alloc(8 << 20))
    const before = process.memoryUsage().rss
    for (let n = 0; n < 100; n++) {
      assert.equal((await sandbox.files.read('/workspace/big', { format: 'bytes' })).length, 8 << 20)
    }
    const grown = (process.memoryUsage().rss - before) / (1 << 20)
    assert.ok(grown < 300, `${grown} MiB of 800 are kept`)
  })
})
