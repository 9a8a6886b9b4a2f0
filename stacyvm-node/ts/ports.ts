import { Duplex } from 'node:stream'
import type * as native from '../native/index.js'
import { called } from './call.js'

/** A connection as a stream of bytes in both directions. Destroying it closes it. */
export function streamOf(connection: native.Connection): Duplex {
  return new Duplex({
    read() {
      called(connection.recv()).then(
        (piece) => this.push(piece),
        (error) => this.destroy(error),
      )
    },
    write(data: Buffer, _, done) {
      called(connection.send(data)).then(() => done(), done)
    },
    final(done) {
      called(connection.sendEof()).then(() => done(), done)
    },
    destroy(error, done) {
      connection.close().then(() => done(error), done)
    },
  })
}

/** A port inside that is listened on. Iterating gives connections until it is closed. */
export class Listener {
  readonly #native: native.Listener

  /** @internal */
  constructor(listener: native.Listener) {
    this.#native = listener
  }

  /** The port. */
  get port(): number {
    return this.#native.port
  }

  /** Waits for a connection of a program inside; null once the port is closed. */
  async accept(): Promise<Duplex | null> {
    const connection = await called(this.#native.accept())
    return connection ? streamOf(connection) : null
  }

  /** Closes the port, also where somebody waits for a connection. */
  async close(): Promise<void> {
    await called(this.#native.close())
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Duplex, void, undefined> {
    for (;;) {
      const connection = await this.accept()
      if (!connection) return
      yield connection
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}
