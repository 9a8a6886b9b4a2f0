// Sandboxes that are made ahead, and pulls that are told.
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { directory, onEach, until } from './engines.mjs'

const host = directory()

async function all(listed) {
  const found = []
  for await (const one of listed) found.push(one)
  return found
}

onEach('pools', (_, test) => {
  test('give away what waits, with what the claim brings', async ({ engine, image }) => {
    const pool = await engine.pool({ image, size: 2, env: { A: 'pool', B: 'pool' } })
    await pool.filled()
    assert.deepEqual((await pool.stats()).ready, 2)
    const waiting = await all(engine.list({ metadata: { 'stacyvm.pool': pool.name } }))
    assert.equal(waiting.length, 2)
    const secret = join(host, 'secret')
    writeFileSync(secret, 'hunter2')
    const sandbox = await pool.claim({
      env: { A: 'claim' },
      secrets: { S: { file: secret } },
      metadata: { of: 'claims' },
      files: { '/workspace/a.txt': 'text\n' },
      timeoutMs: 300_000,
      lifetime: 'attached',
    })
    assert.ok(waiting.some((one) => one.id === sandbox.id))
    const { stdout } = await sandbox.commands.run('echo $A $B $S; cat /workspace/a.txt')
    assert.equal(stdout, 'claim pool hunter2\ntext\n')
    const info = await sandbox.getInfo()
    assert.deepEqual(info.metadata, { of: 'claims' })
    assert.ok(info.ends - info.created < 600_000)
    const { warm, cold } = await pool.stats()
    assert.deepEqual({ warm, cold }, { warm: 1, cold: 0 })
    const bytes = [[Buffer.from('/workspace/b'), Buffer.from('bytes')]]
    const other = await pool.claim({ files: new Map(bytes) })
    assert.equal(await other.files.read('/workspace/b'), 'bytes')
    await pool[Symbol.asyncDispose]()
    const { ready, drained } = await pool.stats()
    assert.deepEqual({ ready, drained }, { ready: 0, drained: true })
    await assert.rejects(pool.claim(), { name: 'ConflictError' })
    assert.equal((await sandbox.commands.run('echo on')).stdout, 'on\n')
    for (const one of [sandbox, other]) assert.equal(await one.kill(), true)
  })

  test('refuse what they cannot have', async ({ engine, image }) => {
    const refused = async (options, field) =>
      assert.rejects(engine.pool({ image, ...options }), (error) => {
        assert.equal(error.context.field, field, error)
        return true
      })
    await refused({ id: 'one' }, 'id')
    await refused({ idempotencyKey: 'k' }, 'idempotencyKey')
    await refused({ secrets: { A: { env: 'HOME' } } }, 'secrets')
    await refused({ size: 0 }, 'size')
    await refused({ size: 1.5 }, 'size')
    await refused({ maxAgeMs: 5 }, 'max_age')
    await refused({ nonesuch: 1 }, 'nonesuch')
    const pool = await engine.pool({ image, size: 1 })
    await assert.rejects(pool.claim({ timeoutMs: -1 }), (error) => error.context.field === 'timeoutMs')
    await assert.rejects(pool.claim({ memoryMib: 5 }), /no option memoryMib,/)
    await pool.drain()
  })

  test('give up a claim that is aborted', async ({ engine, image }) => {
    const pool = await engine.pool({ image, size: 1 })
    const metadata = { of: 'aborted claims' }
    const reason = new Error('changed my mind')
    await assert.rejects(pool.claim({ metadata, signal: AbortSignal.abort(reason) }), reason)
    const living = async () => (await all(engine.list({ metadata }))).length
    for (let after = 0; after < 20; after += 1) {
      const controller = new AbortController()
      const claimed = pool.claim({ metadata, signal: controller.signal }).then(
        async (sandbox) => assert.equal(await sandbox.kill(), true),
        (thrown) => assert.equal(thrown, reason),
      )
      setTimeout(() => controller.abort(reason), after)
      await claimed
    }
    await until(async () => (await living()) === 0)
    // One that is aborted later is as it was.
    const controller = new AbortController()
    const sandbox = await pool.claim({ metadata, signal: controller.signal })
    controller.abort(reason)
    assert.equal(await sandbox.isRunning(), true)
    assert.equal(await sandbox.kill(), true)
    await assert.rejects(pool.claim({ signal: undefined, nonesuch: 1 }), /no option nonesuch/)
    await pool.drain()
  })

  test('stand beside providers that say what they can do', async ({ engine, name }) => {
    const providers = await engine.providers()
    const used = providers.find((one) => one.default)
    assert.equal(used.name, name === 'mock' ? 'mock' : 'oci')
    assert.equal(used.capabilities.claim, true)
  })
})

/** A registry of one image, whose second half is sent once it may be. */
async function registry() {
  const digest = (blob) => `sha256:${createHash('sha256').update(blob).digest('hex')}`
  const size = 4 << 20
  const header = Buffer.alloc(512)
  header.write('data')
  for (const [at, value] of [[100, '0000644'], [108, '0000000'], [116, '0000000'], [124, size.toString(8).padStart(11, '0')], [136, '00000000000']]) header.write(value, at)
  header.write('        0ustar\x0000', 148, 'latin1')
  const sum = header.reduce((all, one) => all + one, 0)
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148)
  const packed = Buffer.concat([header, randomBytes(size), Buffer.alloc(1024)])
  const layer = gzipSync(packed, { level: 1 })
  const architecture = { x64: 'amd64', arm64: 'arm64' }[process.arch]
  const rootfs = { type: 'layers', diff_ids: [digest(packed)] }
  const config = Buffer.from(JSON.stringify({ os: 'linux', architecture, config: {}, rootfs }))
  const kind = 'application/vnd.oci.image'
  const described = (blob, what) => ({ mediaType: `${kind}.${what}`, digest: digest(blob), size: blob.length })
  const manifest = JSON.stringify({
    schemaVersion: 2,
    mediaType: `${kind}.manifest.v1+json`,
    config: described(config, 'config.v1+json'),
    layers: [described(layer, 'layer.v1.tar+gzip')],
  })
  let goOn
  const goesOn = new Promise((resolve) => (goOn = resolve))
  const server = createServer(async (request, response) => {
    const blob = [config, layer].find((one) => request.url.endsWith(digest(one)))
    const isManifest = request.url.includes('/manifests/')
    const body = isManifest ? Buffer.from(manifest) : (blob ?? Buffer.from('{}'))
    response.setHeader('Content-Type', isManifest ? `${kind}.manifest.v1+json` : 'application/octet-stream')
    response.setHeader('Content-Length', body.length)
    response.write(body.subarray(0, size / 2))
    if (body.length > size / 2) await goesOn
    response.end(body.subarray(size / 2))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const close = () => {
    goOn()
    server.close()
    server.closeAllConnections()
  }
  return { image: `127.0.0.1:${server.address().port}/app:1`, goOn, close, size }
}

onEach(
  'pulls',
  (_, test) => {
    test('are told while the create waits', async ({ create }) => {
      const { image, goOn, close, size } = await registry()
      const told = []
      const onPull = async (progress) => {
        told.push(progress)
        // What came is told before the rest has come.
        goOn()
      }
      const sandbox = await create({ image, onPull })
      assert.equal((await sandbox.getInfo()).source, image)
      const done = told.map((one) => one.done)
      assert.deepEqual(done, done.toSorted((a, b) => a - b))
      assert.ok(size < done.at(-1) && done.at(-1) <= told.at(-1).total)
      await sandbox.kill()
      close()
    })

    test('are given up where the one who is told throws', async ({ engine, create }) => {
      const { image, close } = await registry()
      const metadata = { of: 'pulls' }
      const thrown = new Error('of the callback')
      const onPull = () => {
        throw thrown
      }
      await assert.rejects(create({ image, metadata, onPull }), (error) => error === thrown)
      assert.deepEqual(await all(engine.list({ metadata, all: true })), [])
      await assert.rejects(create({ nonesuch: 1, onPull }), /no option nonesuch,/)
      close()
    })
  },
  ['embedded'],
)
