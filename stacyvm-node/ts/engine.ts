import * as native from '../native/index.js'
import { called, refuse } from './call.js'
import { Sandbox } from './sandbox.js'

/** Sandboxes that are asked for at once. */
const PAGE = 256

/** JSON would make null of a number that is none, and null is an option left out. */
const numbers = (_: string, value: unknown): unknown =>
  typeof value === 'number' && !Number.isFinite(value) ? String(value) : value

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
      options instanceof native.Engine ? options : new native.Engine({ config, stateDir })
  }

  /**
   * An engine of the mock provider alone, which executes nothing: for tests of your own
   * program. Its records are in memory.
   */
  static mock(): Engine {
    return new Engine(native.Engine.mock() as object)
  }

  /** Makes a sandbox and resolves when a command can run in it. */
  async create(options: native.CreateOptions = {}): Promise<Sandbox> {
    return new Sandbox(await called(this.#native.create(JSON.stringify(options, numbers))))
  }

  /** Finds a sandbox by its id. Its end stays where it is. */
  async connect(sandboxId: string): Promise<Sandbox> {
    return new Sandbox(await called(this.#native.get(sandboxId)))
  }

  /** Lists sandboxes in the order of their ids. */
  async *list(options: ListOptions = {}): AsyncGenerator<native.SandboxInfo, void, undefined> {
    const { metadata = {}, all = false, ...unknown } = options
    refuse(unknown)
    let after: string | undefined
    do {
      const page = await called(this.#native.page(metadata, all, after, PAGE))
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
