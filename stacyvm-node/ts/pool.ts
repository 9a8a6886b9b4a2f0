import * as native from '../native/index.js'
import { asked, called } from './call.js'
import type { Path } from './files.js'
import { Sandbox } from './sandbox.js'

/** What a claim brings. */
export interface ClaimOptions extends native.ClaimOptions {
  /** Files that are written before the sandbox is given away. */
  files?: Record<string, native.Raw> | Iterable<[Path, native.Raw]>
  /** Gives the claim up when it is aborted before, and rejects with its reason. */
  signal?: AbortSignal
}

/**
 * Sandboxes of the same options that are made ahead, from `engine.pool()`.
 *
 * It belongs to its process. When it is drained, disposed of or not held any more, all
 * that wait are ended; those that were claimed go on.
 */
export class Pool {
  readonly #native: native.Pool

  /** @internal */
  constructor(pool: native.Pool) {
    this.#native = pool
  }

  /** Its random name: the label `stacyvm.pool` of those that nobody has claimed. */
  get name(): string {
    return this.#native.name
  }

  /**
   * Gives a sandbox away, with what the claim brings; where none waits, one is made. Its
   * life begins now.
   */
  async claim(options: ClaimOptions = {}): Promise<Sandbox> {
    const { files = {}, signal, ...rest } = options
    signal?.throwIfAborted()
    const entries = Symbol.iterator in files ? [...files] : Object.entries(files)
    const written = entries.map(([path, data]) => ({ path, data }))
    const cancel = new native.Cancel()
    const abort = () => cancel.cancel()
    signal?.addEventListener('abort', abort, { once: true })
    try {
      return new Sandbox(await called(this.#native.claim(asked(rest), written, cancel)))
    } catch (thrown) {
      // What was given up says so.
      signal?.throwIfAborted()
      throw thrown
    } finally {
      signal?.removeEventListener('abort', abort)
    }
  }

  /** What it has and did. */
  async stats(): Promise<native.PoolStats> {
    return this.#native.stats()
  }

  /** Waits until as many wait as may. */
  async filled(): Promise<void> {
    await called(this.#native.filled())
  }

  /** Ends all that wait, and resolves when nothing of them is left. */
  async drain(): Promise<void> {
    await called(this.#native.drain())
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.drain()
  }
}
