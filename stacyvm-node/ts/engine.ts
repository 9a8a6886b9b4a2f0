import * as native from '../native/index.js'
import { asked, called, calledNow, refuse, texts } from './call.js'
import { Pool } from './pool.js'
import { Sandbox } from './sandbox.js'

/** Sandboxes that are asked for at once. */
const PAGE = 256

/** What a sandbox is made of, and who is told of its pull. */
export interface CreateOptions extends native.CreateOptions {
  /** Is told how far the pull of its image is, and awaited. What it throws gives the
   * sandbox up. */
  onPull?: (progress: native.PullInfo) => unknown
  /** Gives the sandbox up when it is aborted before it is made, and rejects with its reason. */
  signal?: AbortSignal
}

/** What a pool has, and what its sandboxes are made of; a claim brings their secrets. */
export interface PoolOptions
  extends Omit<native.CreateOptions, 'id' | 'idempotencyKey' | 'secrets'> {
  /** How many wait at most, those included that are being made: 4 unless told otherwise. */
  size?: number
  /** Milliseconds that one waits at most: ten minutes unless told otherwise. */
  maxAgeMs?: number
  /** How many are made at once: 1 unless told otherwise. */
  refillAtOnce?: number
}

/** Which sandboxes are listed. */
export interface ListOptions {
  /** Labels that they have. */
  metadata?: Record<string, string>
  /** Those that ended too. */
  all?: boolean
}

/**
 * Where sandboxes are made and found: settings, records, providers.
 *
 * It is opened by its first call. Without options it has the settings that the command
 * line has.
 */
export class Engine {
  readonly #native: native.Engine

  constructor(options: native.EngineOptions = {}) {
    const { config, stateDir, ...unknown } = options
    refuse(unknown)
    this.#native =
      options instanceof native.Engine
        ? options
        : calledNow(() => new native.Engine({ config, stateDir }))
  }

  /**
   * An engine of the mock provider alone, which executes nothing: for tests of your own
   * program. Its records are in memory.
   */
  static mock(): Engine {
    return new Engine(native.Engine.mock() as object)
  }

  /** Makes a sandbox and resolves when a command can run in it. */
  async create(options: CreateOptions = {}): Promise<Sandbox> {
    const { onPull, signal, ...rest } = options
    signal?.throwIfAborted()
    if (!onPull && !signal) return new Sandbox(await called(this.#native.create(asked(rest))))
    const creating = await called(this.#native.watchedCreate(asked(rest)))
    const abort = () => void creating.giveUp().catch(() => {})
    signal?.addEventListener('abort', abort, { once: true })
    if (signal?.aborted) abort()
    try {
      for (;;) {
        const { pulling, made } = await called(creating.next())
        if (made) return new Sandbox(made)
        if (pulling) await onPull?.(pulling)
      }
    } catch (thrown) {
      await creating.giveUp()
      // What was given up says so.
      signal?.throwIfAborted()
      throw thrown
    } finally {
      signal?.removeEventListener('abort', abort)
    }
  }

  /** Makes a pool of sandboxes, which are made ahead and wait to be claimed. It does not
   * wait until the pool is full. */
  async pool(options: PoolOptions = {}): Promise<Pool> {
    const { size, maxAgeMs, refillAtOnce, ...rest } = options
    return new Pool(await called(this.#native.pool(asked(rest), size, maxAgeMs, refillAtOnce)))
  }

  /** What each configured provider is, can do on this host, and needs. */
  async providers(): Promise<Array<Record<string, unknown>>> {
    return JSON.parse(await called(this.#native.providers()))
  }

  /** Finds a sandbox by its id. Its end stays where it is. */
  async connect(sandboxId: string): Promise<Sandbox> {
    return new Sandbox(await called(this.#native.get(sandboxId)))
  }

  /** Lists sandboxes in the order of their ids. */
  async *list(options: ListOptions = {}): AsyncGenerator<native.SandboxInfo, void, undefined> {
    const { metadata = {}, all = false, ...unknown } = options
    refuse(unknown)
    const labels = texts('metadata', metadata) ?? {}
    let after: string | undefined
    do {
      const page = await called(this.#native.page(labels, all, after, PAGE))
      yield* page
      after = page[PAGE - 1]?.id
    } while (after !== undefined)
  }

  /** Lets go of its records and ends what it has under way. Sandboxes go on. */
  async close(): Promise<void> {
    await called(this.#native.close())
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}

let opened: Engine | undefined

/**
 * The engine of `Sandbox.create()`, with the settings that the command line has too:
 * `STACYVM_CONFIG`, else `stacyvm/stacyvm.yaml` in the user's or the system's
 * configuration directory, and the variables of the environment.
 */
export function defaultEngine(): Engine {
  return (opened ??= new Engine())
}
