import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { Engine, NotFoundError, Sandbox } from 'stacyvm'
import { onEach, privileged } from './engines.mjs'

async function all(listed) {
  const found = []
  for await (const one of listed) found.push(one)
  return found
}

onEach('sandboxes', (_, test) => {
  test('are made by no engine that was closed while it opened', async ({ image }) => {
    const engine = new Engine({ stateDir: process.env.STACYVM_STATE_DIR })
    const making = engine.create({ image })
    await engine.close()
    await assert.rejects(making, { code: 'unavailable' })
  })

  test('are made, found, listed and ended', async ({ engine, create }) => {
    const metadata = { purpose: randomUUID() }
    const sandbox = await create({ metadata, env: { A: '1' }, timeoutMs: 60_000 })
    assert.equal(sandbox.sandboxId, sandbox.id)
    assert.equal(await sandbox.isRunning(), true)
    const info = await sandbox.getInfo()
    assert.equal(info.id, sandbox.id)
    assert.deepEqual(info.metadata, metadata)
    assert.deepEqual(info.envNames, ['A'])
    assert.ok(info.created instanceof Date && Math.abs(info.created - Date.now()) < 60_000)
    assert.ok(Math.abs(info.ends - info.created - 60_000) < 10_000)

    const again = await engine.connect(sandbox.id)
    assert.equal((await again.commands.run('echo $A')).stdout, '1\n')
    // Whoever asks for it has it from a clock of its own.
    assert.ok(Math.abs((await again.getInfo()).ends - info.ends) < 100)

    const listed = await all(engine.list({ metadata }))
    assert.deepEqual(listed.map((one) => one.id), [sandbox.id])
    assert.deepEqual(await all(engine.list({ metadata: { purpose: 'none' } })), [])

    assert.equal(await sandbox.kill(), true)
    assert.equal(await sandbox.kill(), false)
    assert.equal(await sandbox.isRunning(), false)
    assert.deepEqual(await all(engine.list({ metadata })), [])
    const ended = await all(engine.list({ metadata, all: true }))
    assert.deepEqual(ended.map((one) => one.phase), ['ended'])
  })

  test('live longer and shorter', async ({ create }) => {
    const sandbox = await create()
    await sandbox.setTimeout(120_000)
    const { ends } = await sandbox.getInfo()
    await sandbox.extend(60_000)
    assert.ok(Math.abs((await sandbox.getInfo()).ends - ends - 60_000) < 5_000)
    await sandbox.setTimeout(null)
    assert.equal((await sandbox.getInfo()).ends, null)
    await sandbox.kill()
  })

  test('end with their block', async ({ engine, create }) => {
    const sandbox = await create()
    await sandbox[Symbol.asyncDispose]()
    assert.equal((await sandbox.getInfo()).phase, 'ended')
    await assert.rejects(engine.connect('nonesuch'), NotFoundError)
  })

  test('stop and go on', async ({ sandbox }) => {
    if (!(await sandbox.capabilities()).pause) return
    await sandbox.pause()
    assert.equal((await sandbox.getInfo()).phase, 'paused')
    await sandbox.resume()
    assert.equal(await sandbox.isRunning(), true)
  })

  test('tell what they use', async ({ sandbox }) => {
    const metrics = await sandbox.metrics()
    assert.ok('memoryBytes' in metrics && 'oomKills' in metrics)
    assert.equal(typeof (await sandbox.capabilities()).pause, 'boolean')
  })

  test('refuse options that do not exist', async ({ create, engine, sandbox }) => {
    assert.throws(() => new Engine({ statedir: '/tmp' }), { name: 'InvalidArgumentError' })
    await assert.rejects(all(engine.list({ label: {} })), (error) => error.context.field === 'label')
    await assert.rejects(sandbox.files.write('/workspace/x', '', { perm: 1 }), /no option perm/)
    await assert.rejects(sandbox.files.read('/workspace/x', { as: 'text' }), /no option as/)
    await assert.rejects(create({ memory: 5 }), (error) => {
      assert.equal(error.name, 'InvalidArgumentError')
      assert.match(error.message, /no option memory,/)
      return true
    })
    await assert.rejects(create({ timeoutMs: -1 }), { name: 'InvalidArgumentError', code: 'invalid_argument' })
    await assert.rejects(create({ timeoutMs: Infinity }), (error) => error.context.field === 'timeoutMs')
    await assert.rejects(create({ env: { A: 5 } }), (error) => error.context.field === 'env.A')
    await assert.rejects(create({ template: 't' }), /one of image, template and snapshot/)
  })

  test('tell where a port is, where their provider can', async ({ sandbox }) => {
    await assert.rejects(sandbox.getHost(70_000), { name: 'InvalidArgumentError' })
    if ((await sandbox.capabilities()).endpoint) {
      const host = await sandbox.getHost(8080)
      assert.match(await sandbox.getUrl(8080), /^https?:\/\/[^/]+/)
      assert.ok((await sandbox.getUrl(8080)).endsWith(host))
    } else {
      await assert.rejects(sandbox.getUrl(8080), { name: 'UnsupportedError' })
    }
  })

  test('come only from create and connect', () => {
    assert.throws(() => new Sandbox(), /use Sandbox.create/)
  })
})

onEach(
  'sandboxes of the mock',
  (_, test) => {
    test('are saved', async ({ sandbox, create }) => {
      await sandbox.files.write('/workspace/saved', 'yes')
      const { id, memory } = await sandbox.snapshot()
      assert.equal(memory, false)
      const other = await create({ image: undefined, snapshot: id })
      assert.equal(await other.files.read('/workspace/saved'), 'yes')
      await other.kill()
    })

    test('are listed page by page', async ({ engine, create }) => {
      const made = await Promise.all(
        Array.from({ length: 600 }, () => create({ metadata: { of: 'many' } })),
      )
      const listed = await all(engine.list({ metadata: { of: 'many' } }))
      assert.deepEqual(listed.map((one) => one.id), made.map((one) => one.id).sort())
      let first
      for await (first of engine.list({ metadata: { of: 'many' } })) break
      assert.equal(first.id, listed[0].id)
    })
  },
  ['mock'],
)

onEach(
  'sandboxes of the embedded provider',
  (_, test) => {
    test('are made by the default engine', async (given, context) => {
      if (!privileged(given, context)) return
      const sandbox = await Sandbox.create({ memoryMib: 128, openFiles: 512, readOnlyRoot: true })
      const { memoryMib, openFiles, provider } = await sandbox.getInfo()
      assert.deepEqual({ memoryMib, openFiles, provider }, { memoryMib: 128, openFiles: 512, provider: 'oci' })
      assert.equal((await (await Sandbox.connect(sandbox.id)).exec(['true'])).ok, true)
      assert.ok((await all(Sandbox.list())).some((one) => one.id === sandbox.id))
      assert.equal(await sandbox.kill(), true)
    })

    test('have mounts', async ({ create }) => {
      const sandbox = await create({
        mounts: [{ target: '/ram', source: { tmpfs: { sizeMib: 4 } } }],
      })
      const { stdout } = await sandbox.commands.run('df -Pm /ram | tail -n 1')
      assert.match(stdout, /^\S+ +4 /)
      await sandbox.kill()
      await assert.rejects(create({ mounts: [{ target: '/a', source: { disk: 'b' } }] }), /mounts\[0\]\.source is `another word`, expected one of `host`/)
    })
  },
  ['embedded'],
)
