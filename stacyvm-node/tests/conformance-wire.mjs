// What the server of the conformance suite speaks: frames, words and errors of the HTTP API.
import { StacyError } from 'stacyvm'

export const [HEAD, DATA, END, ERROR, ITEM] = [1, 2, 3, 4, 5]
export const [STDOUT, STDERR, LOST, EXITED] = [16, 17, 18, 19]
export const [STDIN, CLOSE, RESIZE, SIGNAL, CREDIT, DONE] = [32, 33, 34, 35, 36, 37]
export const EVENT = 64
export const FRAMES = 'application/vnd.stacyvm.frames'
const LONGEST = 1 << 20

/** An error of the API by its kind. */
export class Refused extends Error {
  constructor(kind, message) {
    super(message)
    this.kind = kind
  }
}

/** The client is gone, or says what is no request. */
export class BrokeOff extends Error {}

export function errorOf(error) {
  const { message } = error
  if (error instanceof StacyError) {
    const { code: kind, operation, provider, context, retryable, retryAfterMs } = error
    return {
      kind, message, operation, provider, context: Object.entries(context),
      retry: retryable ? 'maybe' : 'never', retry_after_ms: retryAfterMs === null ? null : Math.round(retryAfterMs),
    }
  }
  return { kind: error instanceof Refused ? error.kind : 'invalid_argument', message }
}

/** What the package takes as a path or an argument. */
export const raw = (word) => (typeof word === 'string' ? word : Buffer.from(word.base64, 'base64'))

/** A name that the package told: as text, and in bytes where it is none. */
export const wordOf = (text, bytes) => (bytes ? { base64: bytes.toString('base64') } : text)

export function timeOf(date) {
  if (date === null) return null
  const seconds = Math.floor(date.getTime() / 1000)
  return { seconds, nanoseconds: (date.getTime() - seconds * 1000) * 1_000_000 }
}

export const momentOf = ({ seconds, nanoseconds }) => new Date(seconds * 1000 + nanoseconds / 1_000_000)

export function ended({ reason, exitCode, signal }) {
  if (reason === 'code') return { reason, code: exitCode }
  if (reason === 'signal') return { reason, signal }
  if (reason === 'timed_out' || reason === 'cancelled') return { reason, sandbox_ended: false }
  return { reason }
}

export function frame(kind, ...parts) {
  const payload = Buffer.concat(parts)
  const head = Buffer.alloc(5)
  head.writeUInt32BE(payload.length)
  head[4] = kind
  return Buffer.concat([head, payload])
}

export const told = (kind, what) => frame(kind, Buffer.from(JSON.stringify(what)))

/** Sends, and waits while the client does not take it. */
export const sent = (to, data) =>
  new Promise((resolve, reject) => to.write(data, (error) => (error ? reject(error) : resolve())))

/** Bytes as they are asked for, of a stream that comes in pieces. */
export class Source {
  #pieces
  #kept = []
  #length = 0

  constructor(stream) {
    // What is not read any more still gets its answer.
    this.#pieces = stream.iterator({ destroyOnReturn: false })
  }

  /** All that comes, in the pieces that it comes in. */
  async *rest() {
    yield* this.#kept
    yield* this.#pieces
  }

  /** Reads no more. */
  async end() {
    await this.#pieces.return()
  }

  async exactly(length) {
    while (this.#length < length) {
      const { value, done } = await this.#pieces.next().catch(() => ({ done: true }))
      if (done) throw new BrokeOff('the client is gone')
      this.#kept.push(value)
      this.#length += value.length
    }
    const all = this.#kept.length === 1 ? this.#kept[0] : Buffer.concat(this.#kept)
    this.#kept = [all.subarray(length)]
    this.#length -= length
    return all.subarray(0, length)
  }

  async json(length) {
    return JSON.parse((await this.exactly(length)).toString() || '{}')
  }

  async frame() {
    const head = await this.exactly(5)
    const length = head.readUInt32BE()
    if (length > LONGEST) throw new BrokeOff(`a frame of ${length} bytes`)
    return { kind: head[4], payload: await this.exactly(length) }
  }

  /** The first frame of an upload. */
  async head() {
    const { kind, payload } = await this.frame()
    if (kind !== HEAD) throw new Refused('invalid_argument', `the body begins with a frame ${kind}, expected a head`)
    return JSON.parse(payload.toString())
  }

  /** What is uploaded; where the client's own data failed, an error. */
  async *uploaded() {
    for (;;) {
      const { kind, payload } = await this.frame()
      if (kind === END) return
      if (kind !== DATA) throw new Refused('cancelled', "the client's data failed")
      yield payload
    }
  }
}

/** Frames that are the body of an answer. */
export class Stream {
  constructor(frames, stop = () => {}, end = undefined) {
    Object.assign(this, { frames, stop, end })
  }

  async write(client) {
    client.on('close', this.stop)
    try {
      for await (const one of this.frames) await sent(client, one)
      client.end(this.end ? told(END, this.end()) : frame(END))
    } catch (error) {
      // To one that is gone nothing is told.
      client.end(told(ERROR, errorOf(error)))
    }
  }
}
