// A server of the HTTP API over this package, for the conformance suite: what a case asks of a
// provider goes through the package and back, so that the package can change no meaning.
//
// It prints its URL, and ends when its standard input does, with all that it made.
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Pipe, Session } from './conformance-commands.mjs'
import * as files from './conformance-files.mjs'
import { Rooms, seen } from './conformance-sandboxes.mjs'
import { FRAMES, Refused, Source, Stream, errorOf } from './conformance-wire.mjs'

const state = mkdtempSync(join(tmpdir(), 'stacyvm-conformance-'))
const rooms = await Rooms.open(state)
const provider = { info: { name: 'node', runtime: 'stacyvm', versions: {} }, capabilities: rooms.claims }

/** What is asked, by method and path: a name, and what comes after it. `body` reads JSON. */
const routes = {
  'GET provider': () => provider,
  'GET probe': () => ({ usable: true, findings: [] }),
  'POST pull': () => ({}),
  'GET sandboxes': ({ query }) => rooms.page(query.get('after') ?? '', Number(query.get('limit'))),
  'POST sandboxes': async ({ body }) => rooms.create(await body()),
  'GET sandboxes/*': ({ name }) => seen(rooms.sandbox(name)),
  'DELETE sandboxes/*': ({ name }) => rooms.destroy(name),
  'PUT sandboxes/*/deadline': async ({ name, body }) => rooms.setDeadline(name, await body()),
  'POST sandboxes/*/pause': ({ name }) => rooms.sandbox(name).pause(),
  'POST sandboxes/*/resume': ({ name }) => rooms.sandbox(name).resume(),
  'GET sandboxes/*/usage': ({ name }) => rooms.usage(name),
  'GET sandboxes/*/processes': ({ name }) => rooms.commands(name).processes(),
  'GET sandboxes/*/ports/*/endpoint': ({ name, item }) => rooms.sandbox(name).getEndpoint(Number(item)),
  'POST sandboxes/*/ports/*/dial': async ({ name, item }) => new Pipe(await rooms.sandbox(name).dial(Number(item))),
  'GET sandboxes/*/execs': ({ name }) => rooms.commands(name).list(),
  'POST sandboxes/*/execs': async ({ name, body }) => rooms.commands(name).start(await body()),
  'POST sandboxes/*/execs/*/attach': async ({ name, item, body }) => rooms.commands(name).attach(item, await body()),
  'POST sandboxes/*/execs/*/log': async ({ name, item, body }) => rooms.commands(name).log(item, await body()),
  'POST sandboxes/*/execs/*/signal': async ({ name, item, body }) => rooms.commands(name).signal(item, await body()),
  'POST sandboxes/*/files': async ({ name, body }) => files.operate(rooms.sandbox(name), await body()),
  'POST sandboxes/*/files/read': async ({ name, body }) => files.read(rooms.sandbox(name), await body()),
  'POST sandboxes/*/files/write': ({ name, source }) => files.write(rooms.sandbox(name), source),
  'POST sandboxes/*/files/export': async ({ name, body }) => files.exported(rooms.sandbox(name), await body()),
  'POST sandboxes/*/files/import': ({ name, source }) => files.imported(rooms.sandbox(name), source),
  'POST sandboxes/*/files/watch': async ({ name, body }) => files.watch(rooms.sandbox(name), await body()),
}

async function answer({ method, url, headers }, source) {
  const { pathname, searchParams: query } = new URL(url, 'http://localhost')
  const path = pathname.split('/').slice(2)
  const named = path.map((part, at) => (at === 1 || (at === 3 && path[2] !== 'files') ? '*' : part))
  const route = routes[`${method} ${named.join('/')}`]
  if (!route) throw new Refused('unsupported', 'this is not had here')
  const length = Number(headers['content-length'] ?? 0)
  let asked
  const body = async () => (asked ??= await source.json(length))
  // What comes after it on a connection that speaks another protocol is not of it.
  if (headers.upgrade) await body()
  return (await route({ name: path[1], item: path[3], query, source, body })) ?? {}
}

const tried = (work) => work.then((value) => ({ value }), (error) => ({ error: errorOf(error) }))

const server = createServer({ keepAliveTimeout: 60_000 }, async (request, response) => {
  const source = new Source(request)
  const { value, error } = await tried(answer(request, source))
  if (value instanceof Stream) {
    response.writeHead(200, { 'content-type': FRAMES, connection: 'close' })
    // A watch has nothing to send yet, and has begun.
    response.flushHeaders()
    return value.write(response)
  }
  const body = Buffer.from(JSON.stringify(error ?? value))
  const head = { 'content-type': 'application/json', 'content-length': body.length }
  response.writeHead(error ? 400 : 200, request.complete ? head : { ...head, connection: 'close' })
  response.end(body)
  // What an upload still sends is for nobody.
  await source.end()
  request.resume()
})

server.on('upgrade', async (request, socket, head) => {
  socket.on('error', () => {})
  if (head.length > 0) socket.unshift(head)
  const source = new Source(socket)
  const { value, error } = await tried(answer(request, source))
  if (value instanceof Session || value instanceof Pipe) {
    socket.write(`HTTP/1.1 101 \r\nconnection: upgrade\r\nupgrade: ${value.protocol}\r\n\r\n`)
    return value.follow(socket, source)
  }
  const body = Buffer.from(JSON.stringify(error ?? value))
  socket.write(`HTTP/1.1 400 \r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n`)
  socket.end(body)
})

process.on('SIGINT', () => {})
server.listen(0, '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port}`))
process.stdin.resume().on('end', async () => {
  await rooms.close()
  // A helper that was parked may still be going.
  rmSync(state, { recursive: true, force: true })
  process.exit(0)
})
