import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { createReadStream, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { text } from 'node:stream/consumers'
import { InvalidArgumentError, IsDirectoryError, NotFoundError, PermissionDeniedError } from 'stacyvm'
import { directory, everywhere, onEach, privileged, until } from './engines.mjs'

const host = directory()

onEach('files', ({ name }, test) => {
  test('are written and read as text, bytes and streams', async ({ sandbox: { files } }) => {
    const entry = await files.write('/workspace/a/tëxt', 'hällo')
    assert.equal(entry.type, 'file')
    assert.equal(entry.size, 6)
    assert.ok(entry.modifiedTime instanceof Date)
    assert.equal(await files.read('/workspace/a/tëxt'), 'hällo')
    assert.deepEqual(await files.read('/workspace/a/tëxt', { format: 'bytes' }), Buffer.from('hällo'))

    const bytes = Uint8Array.from([0, 255, 1])
    await files.write('/workspace/bytes', bytes, { mode: 0o640 })
    const read = await files.read('/workspace/bytes', { format: 'bytes' })
    assert.ok(Buffer.isBuffer(read))
    assert.deepEqual([...read], [...bytes])
    assert.equal((await files.getInfo('/workspace/bytes')).mode, 0o640)
    await files.append('/workspace/bytes', 'end')
    assert.equal((await files.getInfo('/workspace/bytes')).size, 6)
    await assert.rejects(files.read('/workspace/bytes'), /UTF-8/i)
  })

  test('are written piece by piece', async ({ sandbox: { files } }) => {
    const big = Buffer.alloc(5 << 20, 'abc')
    const sources = {
      readable: Readable.from(big),
      web: new Blob([big]).stream(),
      generator: (function* () {
        for (let at = 0; at < big.length; at += 1 << 20) yield big.subarray(at, at + (1 << 20))
      })(),
      async: (async function* () {
        yield big.toString()
      })(),
    }
    for (const [kind, source] of Object.entries(sources)) {
      await files.write('/workspace/big', source)
      assert.ok(big.equals(await files.read('/workspace/big', { format: 'bytes' })), kind)
    }
    const stream = await files.read('/workspace/big', { format: 'stream' })
    assert.ok(stream instanceof Readable)
    let length = 0
    for await (const piece of stream) length += piece.length
    assert.equal(length, big.length)
    const copy = await files.read('/workspace/big', { format: 'stream' })
    await files.write('/workspace/copy', copy)
    assert.equal((await files.getInfo('/workspace/copy')).size, big.length)
    const part = await files.read('/workspace/big', { format: 'stream' })
    for await (const piece of part) {
      assert.ok(piece.length > 0)
      break
    }
    assert.equal(part.destroyed, true)
    await pipeline(await files.read('/workspace/big', { format: 'stream' }), async function (source) {
      assert.equal((await text(source)).length, big.length)
    })
  })

  test('stay as they were where the source fails', async ({ sandbox: { files } }) => {
    await files.write('/workspace/kept', 'old')
    const failed = new Error('the source')
    const source = (async function* () {
      yield 'new'
      throw failed
    })()
    await assert.rejects(files.write('/workspace/kept', source), failed)
    assert.equal(await files.read('/workspace/kept'), 'old')
    await assert.rejects(files.write('/workspace', (function* () { yield 'a' })()), { code: /directory|conflict|exists/ })
  })

  test('are listed, found and described', async ({ sandbox: { files } }) => {
    await files.makeDir('/workspace/tree/deep')
    await files.makeDir('/workspace/tree/deep')
    await files.write('/workspace/tree/b.txt', '')
    await files.write('/workspace/tree/deep/c.txt', '')
    await files.symlink('b.txt', '/workspace/tree/link')
    const names = (entries) => entries.map((entry) => entry.path)
    assert.deepEqual(names(await files.list('/workspace/tree')), ['b.txt', 'deep', 'link'])
    assert.deepEqual(names(await files.list('/workspace/tree', { depth: 2 })).sort(), [
      'b.txt', 'deep', 'deep/c.txt', 'link',
    ])
    assert.deepEqual(names(await files.glob('/workspace/tree/**/*.txt')).sort(), [
      '/workspace/tree/b.txt', '/workspace/tree/deep/c.txt',
    ])
    const link = await files.getInfo('/workspace/tree/link')
    assert.equal(link.type, 'link')
    assert.equal(link.symlinkTarget, 'b.txt')
    assert.equal((await files.getInfo('/workspace/tree/link', { follow: true })).type, 'file')
    assert.equal((await files.getInfo('/workspace/tree/deep')).type, 'dir')
  })

  test('are moved, changed and removed', async (given, context) => {
    if (!privileged(given, context)) return
    const { files } = given.sandbox
    await files.write('/workspace/from', 'x')
    await files.rename('/workspace/from', '/workspace/to')
    assert.equal(await files.exists('/workspace/from'), false)
    await files.chmod('/workspace/to', 0o600)
    const root = files.withUser('root')
    await root.chown('/workspace/to', 'root', 'root')
    const { mode, uid, owner } = await files.getInfo('/workspace/to')
    assert.deepEqual({ mode, uid, owner }, { mode: 0o600, uid: 0, owner: 'root' })
    await assert.rejects(files.read('/workspace/to'), PermissionDeniedError)
    assert.equal(await root.read('/workspace/to'), 'x')
    await files.remove('/workspace/to')
    assert.equal(await files.exists('/workspace/to'), false)
    await assert.rejects(files.read('/workspace/to'), (error) => {
      assert.ok(error instanceof NotFoundError)
      assert.equal(error.context.path, '/workspace/to')
      return true
    })
    await assert.rejects(files.read('/workspace', { format: 'bytes' }), IsDirectoryError)
    await assert.rejects(files.read('/workspace/to', { format: 'stream' }), NotFoundError)
  })

  test('may have names that are no text', async ({ sandbox: { files } }) => {
    if (name === 'mock') return
    const path = Buffer.concat([Buffer.from('/workspace/odd/'), Buffer.from([0xff])])
    await files.write(path, 'odd')
    const [entry] = await files.list('/workspace/odd')
    assert.equal(entry.name, '\ufffd')
    assert.deepEqual(entry.pathBytes, Buffer.from([0xff]))
    assert.equal(await files.read(path), 'odd')
    const watch = await files.watchDir('/workspace/odd')
    await files.symlink(Buffer.from([0xfe]), Buffer.concat([path, Buffer.from([0xfd])]))
    for await (const { name: told, nameBytes } of watch) {
      assert.equal(told, '\ufffd\ufffd')
      assert.deepEqual(nameBytes, Buffer.from([0xff, 0xfd]))
      break
    }
    await watch.stop()
    const link = await files.getInfo(Buffer.concat([path, Buffer.from([0xfd])]))
    assert.equal(link.symlinkTarget, '\ufffd')
    assert.deepEqual(link.symlinkTargetBytes, Buffer.from([0xfe]))
    assert.equal((await files.getInfo('/workspace/odd')).symlinkTargetBytes, null)
  })

  test('let go of a file that was never read', async ({ sandbox, engine, create }) => {
    if (name !== 'embedded') return
    const idle = await create({ idleTimeoutMs: 1000 })
    await idle.files.write('/workspace/big', Buffer.alloc(50 << 20))
    const stream = await idle.files.read('/workspace/big', { format: 'stream' })
    stream.destroy()
    // What is read would keep it from being idle.
    await until(async () => (await engine.connect(idle.id)).getInfo().then((info) => info.phase === 'ended', () => true))
    assert.equal(await sandbox.isRunning(), true)
  })

  test('have times before 1970 too', async ({ sandbox }) => {
    if (name === 'mock') return
    await sandbox.commands.run('TZ=UTC touch -d "1969-12-31 23:59:58" /workspace/old', { check: true })
    const { modifiedTime } = await sandbox.files.getInfo('/workspace/old')
    assert.equal(modifiedTime.getTime(), -2000)
  })

  test('are watched', async ({ sandbox: { files } }) => {
    await files.makeDir('/workspace/watched')
    const watch = await files.watchDir('/workspace/watched')
    await files.write('/workspace/watched/new', 'x')
    for await (const event of watch) {
      assert.equal(event.name, 'new')
      assert.match(event.type, /created|modified/)
      break
    }
    await files.remove('/workspace/watched/new')
    const seen = []
    while (!seen.some((event) => event.type === 'removed')) {
      seen.push(...(await watch.getNewEvents()))
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
    // A loop that waits ends with the watch.
    const waits = (async () => {
      for await (const event of watch) seen.push(event)
    })()
    await new Promise((resolve) => setTimeout(resolve, 50))
    await watch.stop()
    await waits
    await watch[Symbol.asyncDispose]()
    assert.deepEqual(await watch.getNewEvents(), [])
  })

  test('have attributes, and what is below them', async ({ sandbox: { files } }) => {
    for (const file of ['a', 'deep/b']) await files.write(`/workspace/owned/${file}`, 'x', { mode: 0o644 })
    await files.chmod('/workspace/owned', 0o700)
    assert.equal((await files.getInfo('/workspace/owned/deep/b')).mode, 0o644)
    await files.chmod('/workspace/owned', 0o750, { recursive: true })
    const below = await files.list('/workspace/owned', { depth: 3 })
    assert.deepEqual(below.map((one) => one.mode), [0o750, 0o750, 0o750])
    await assert.rejects(files.chmod('/workspace/owned', 0o700, { deep: true }), /no option deep/)
    for (const time of [new Date('2001-02-03T04:05:06.789Z'), new Date(-1500)]) {
      await files.setModifiedTime('/workspace/owned', time, { recursive: true })
      const times = (await files.list('/workspace/owned', { depth: 3 })).map((one) => one.modifiedTime)
      assert.deepEqual(times, [time, time, time])
    }
    for (const time of [new Date(NaN), 5, undefined]) {
      await assert.rejects(files.setModifiedTime('/workspace/owned', time), (error) => error.context.field === 'time')
    }
  })

  test('are read in part', async ({ sandbox: { files } }) => {
    await files.write('/workspace/digits', '0123456789'.repeat(1000))
    const part = async (options) => String(await files.read('/workspace/digits', { format: 'bytes', ...options }))
    assert.equal(await part({ offset: 4, length: 3 }), '456')
    assert.equal(await part({ offset: 9_998 }), '89')
    assert.equal(await part({ offset: 20_000 }), '')
    const stream = await files.read('/workspace/digits', { format: 'stream', offset: 9_997, length: 2 })
    assert.equal((await stream.toArray()).join(''), '78')
    await assert.rejects(part({ offset: -1 }), (error) => error.context.field === 'offset')
    await assert.rejects(part({ length: 0.5 }), (error) => error.context.field === 'length')
    // A part of a text could begin within a character.
    await assert.rejects(files.read('/workspace/digits', { offset: 1 }), /no option offset/)
  })

  test('are copied to and from the host', async ({ sandbox: { files } }) => {
    const from = join(host, 'from')
    mkdirSync(join(from, 'deep'), { recursive: true })
    writeFileSync(join(from, 'deep', 'file'), 'carried')
    const to = `/workspace/up-${name}`
    assert.deepEqual(await files.upload(from, to), { names: [], more: 0 })
    assert.equal(await files.read(`${to}/deep/file`), 'carried')
    const back = join(host, `back-${name}`)
    assert.deepEqual(await files.download(to, back), { names: [], more: 0 })
    assert.equal(readFileSync(join(back, 'deep', 'file'), 'utf8'), 'carried')
    const socket = createServer().listen(join(from, 'socket'))
    await once(socket, 'listening')
    const { names, more } = await files.upload(from, `/workspace/again-${name}`)
    socket.close()
    assert.match(names.join(), /^[^,]*socket$/)
    assert.equal(more, 0)
  })

  test('go out as tar streams, and into another place', async ({ sandbox: { files } }) => {
    const data = Buffer.alloc(200_000, '\0\xff')
    await files.write('/workspace/packed/deep/a', data, { mode: 0o640 })
    await files.symlink('deep/a', '/workspace/packed/link')
    const archive = await files.exportTar('/workspace/packed')
    assert.ok(archive instanceof Readable)
    const whole = Buffer.concat(await archive.toArray())
    assert.deepEqual(archive.leftOut, { names: [], more: 0 })
    const listed = execFileSync('tar', ['-t'], { input: whole, encoding: 'utf8' })
    const members = listed.trim().split('\n').map((member) => member.replace(/\/$/, ''))
    assert.deepEqual(members.sort(), ['packed', 'packed/deep', 'packed/deep/a', 'packed/link'])
    await files.importTar('/workspace/a', await files.exportTar('/workspace/packed', { contents: true }))
    await files.importTar('/workspace/b', whole)
    for (const place of ['a', 'b/packed']) {
      assert.deepEqual(await files.read(`/workspace/${place}/deep/a`, { format: 'bytes' }), data)
      assert.equal((await files.getInfo(`/workspace/${place}/deep/a`)).mode, 0o640)
      assert.equal((await files.getInfo(`/workspace/${place}/link`)).symlinkTarget, 'deep/a')
    }
    const through = await files.exportTar('/workspace/packed/link', { follow: true })
    const followed = execFileSync('tar', ['-tv'], { input: Buffer.concat(await through.toArray()), encoding: 'utf8' })
    assert.match(followed, /^-rw.* link\n$/)
  })

  test('of bad archives are told of', async ({ sandbox: { files } }) => {
    await assert.rejects(files.exportTar('/workspace/missing'), NotFoundError)
    await assert.rejects(files.exportTar('/workspace', { content: true }), /no option content/)
    await assert.rejects(files.importTar('/workspace/bad', Buffer.alloc(4096, 'no archive')), InvalidArgumentError)
    for (const data of ['text', 7, null, {}]) {
      await assert.rejects(files.importTar('/workspace/bad', data), (error) => error.context.field === 'data')
    }
    const [directory, file] = ['/workspace/one', '/workspace/one/a']
    await files.write(file, Buffer.alloc(100_000))
    const whole = Buffer.concat(await (await files.exportTar(directory, { contents: true })).toArray())
    await assert.rejects(files.importTar('/workspace/not/there', whole, { parents: false }), NotFoundError)
    const breaks = async function* () {
      yield whole.subarray(0, 50_000)
      throw new RangeError('the source is gone')
    }
    await assert.rejects(files.importTar('/workspace/half', breaks()), RangeError)
    assert.equal(await files.exists('/workspace/half/a'), false)
  })

  test('of streams that fail before they are read are refused', async ({ sandbox: { files } }) => {
    for (let round = 0; round < 5; round += 1) {
      const missing = () => createReadStream(join(host, 'nonesuch'))
      await assert.rejects(files.write('/workspace/unread', missing()), { code: 'ENOENT' })
      await assert.rejects(files.importTar('/workspace/x', missing()), { code: 'ENOENT' })
    }
    assert.equal(await files.exists('/workspace/unread'), false)
  })

  test('are let go of with their archive', async ({ sandbox: { files } }) => {
    await files.write('/workspace/big', Buffer.alloc(32 << 20))
    const archive = await files.exportTar('/workspace/big')
    for await (const piece of archive) {
      assert.ok(piece.length > 0)
      break
    }
    assert.ok(archive.destroyed)
  })
}, everywhere)
