// Connections to and from ports inside, and what commands wrote.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import http from 'node:http'
import { buffer, text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import { onEach, until } from './engines.mjs'

const ECHO = `
import socket
listening = socket.create_server(("127.0.0.1", 7000))
while True:
    one, _ = listening.accept()
    try:
        while data := one.recv(65536):
            one.sendall(data)
        one.sendall(b"END")
    except OSError:
        pass
    one.close()
`

/** Waits until a program has begun, which may take longer than `dial` tries. */
const listenedOn = (sandbox, port) =>
  until(() => sandbox.dial(port).then((one) => one.destroy(), () => false), 'nobody listens')

onEach('ports', (_, test) => {
  test('are listened on and dialled', async ({ sandbox }) => {
    const listener = await sandbox.listen()
    assert.ok(listener.port > 0)
    await assert.rejects(sandbox.listen(listener.port), { name: 'AlreadyExistsError' })
    const ours = await sandbox.dial(listener.port)
    for await (const theirs of listener) {
      theirs.end('hello')
      assert.equal(await text(ours), 'hello')
      ours.end()
      break
    }
    const waits = listener.accept()
    await sleep(50)
    await listener[Symbol.asyncDispose]()
    assert.equal(await waits, null)
    for await (const none of listener) assert.fail(none)
  })

  test('have errors with their classes', async ({ sandbox }) => {
    await assert.rejects(sandbox.dial(9), (error) => {
      assert.equal(error.name, 'NotFoundError')
      assert.equal(error.context.port, '9')
      return true
    })
    await assert.rejects(sandbox.dial(70_000), (error) => error.context.field === 'port')
    await assert.rejects(sandbox.listen(-1), (error) => error.name !== 'NotFoundError')
  })
})

onEach(
  'ports of programs',
  (_, test) => {
    test('end with their sandbox', async ({ create }) => {
      const sandbox = await create()
      const listener = await sandbox.listen()
      const connection = await sandbox.dial(listener.port)
      const closed = once(connection, 'close').catch((error) => error)
      connection.resume()
      await sandbox.kill()
      const error = await closed
      assert.ok(Array.isArray(error) || ['sandbox_gone', 'unavailable'].includes(error.code), String(error))
    })

    test('are dialled by what takes a stream', async ({ sandbox }) => {
      await sandbox.files.write('/workspace/a.txt', 'told by the server\n')
      const serve = 'python3 -m http.server --bind 127.0.0.1 --directory /workspace 8000'
      await sandbox.commands.run(serve, { background: true })
      await listenedOn(sandbox, 8000)
      const socket = await sandbox.dial(8000)
      const asked = http.get({ path: '/a.txt', createConnection: () => socket })
      const [answer] = await once(asked, 'response')
      assert.equal(answer.statusCode, 200)
      assert.equal(await text(answer), 'told by the server\n')
    })

    test('heed both ends, and a slow reader slows the writer', async ({ sandbox }) => {
      await sandbox.commands.run(['python3', '-c', ECHO], { background: true })
      await listenedOn(sandbox, 7000)
      const connection = await sandbox.dial(7000)
      const size = 64 << 20
      let taken = 0
      const writing = (async () => {
        for (let sent = 0; sent < size; sent += 1 << 20) {
          if (!connection.write(Buffer.alloc(1 << 20))) await once(connection, 'drain')
          taken += 1 << 20
        }
        connection.end()
      })()
      await sleep(300)
      assert.ok(taken < size, 'nothing is read, and all was taken')
      const came = await buffer(connection)
      await writing
      assert.equal(came.length, size + 3)
      assert.equal(came.subarray(-3).toString(), 'END')
    })

    test('are let go of by a stream that is destroyed', async ({ sandbox }) => {
      const connection = await sandbox.dial(7000)
      connection.on('data', () => assert.fail('nothing was sent'))
      await sleep(50)
      connection.destroy()
      await once(connection, 'close')
      // The one server behind the port is free for the next.
      const next = await sandbox.dial(7000)
      next.end('next')
      assert.equal(await text(next), 'nextEND')
    })

    test('are reached by commands where the host listens', async ({ sandbox }) => {
      const listener = await sandbox.listen()
      const call = `import socket; s = socket.create_connection(("127.0.0.1", ${listener.port})); s.sendall(b"inside"); s.shutdown(1); print(s.recv(9).decode())`
      const handle = await sandbox.commands.run(['python3', '-c', call], { background: true })
      const connection = await listener.accept()
      // Whoever iterates a stream to its end destroys it.
      let heard = ''
      connection.on('data', (piece) => (heard += piece))
      await once(connection, 'end')
      assert.equal(heard, 'inside')
      connection.end('host')
      assert.equal((await handle.wait()).stdout, 'host\n')
      await listener.close()
      assert.match((await sandbox.commands.run(['python3', '-c', call])).stderr, /ConnectionRefused/)
    })
  },
  ['embedded'],
)

async function all(entries) {
  const found = []
  for await (const one of entries) found.push(one)
  return found
}

const told = (entries, stream) => entries.map((one) => one[stream] ?? '').join('')

onEach(
  'logs',
  (_, test) => {
    test('give what a background command wrote, and its end', async ({ sandbox }) => {
      const handle = await sandbox.commands.run('echo out; echo err >&2; exit 3', { background: true })
      await handle.wait()
      const entries = await all(sandbox.logs(handle.id))
      assert.deepEqual([told(entries, 'stdout'), told(entries, 'stderr')], ['out\n', 'err\n'])
      assert.ok(entries.every((one) => one.command === handle.id))
      assert.equal(entries.at(-1).exit.exitCode, 3)
      assert.ok((await all(sandbox.logs())).some((one) => one.stdout === 'out\n'))
      const since = (ms) => all(sandbox.logs(handle.id, { since: new Date(Date.now() + ms) }))
      assert.equal(told(await since(60_000), 'stdout'), '')
      assert.equal(told(await since(-60_000), 'stdout'), 'out\n')
    })

    test('follow what comes, and cut no character', async ({ sandbox }) => {
      const line = "printf '\\303'; read x; printf '\\244\\n'; printf '\\342\\202'"
      const handle = await sandbox.commands.run(line, { background: true, stdin: true })
      const following = all(sandbox.logs(handle.id, { follow: true }))
      await handle.sendStdin('go on\n')
      const entries = await following
      assert.equal(told(entries, 'stdout'), 'ä\n\ufffd')
      assert.equal(entries.at(-1).exit.exitCode, 0)
    })

    test('are given up by a signal, and refuse what they do not know', async ({ sandbox }) => {
      const handle = await sandbox.commands.run('echo first; sleep 65', { background: true })
      const controller = new AbortController()
      const reading = sandbox.logs(handle.id, { follow: true, signal: controller.signal })
      assert.equal((await reading.next()).value.stdout, 'first\n')
      const waits = reading.next()
      setTimeout(() => controller.abort(), 50)
      await assert.rejects(waits, { name: 'AbortError' })
      await assert.rejects(all(sandbox.logs(handle.id, { signal: controller.signal })), { name: 'AbortError' })
      await assert.rejects(all(sandbox.logs('nonesuch')), { name: 'NotFoundError' })
      await assert.rejects(all(sandbox.logs(handle.id, { tail: 1 })), /no option tail/)
      await assert.rejects(all(sandbox.logs(handle.id, { since: new Date(NaN) })), { name: 'InvalidArgumentError' })
      await handle.kill()
    })
  },
  ['embedded'],
)
