import { calledNow } from '../call.js'
import { InvalidArgumentError as InvalidError, NotFoundError as NoneError, UnsupportedError } from '../errors.js'
import { halves } from '../internal.js'
import { Sandbox as Machine } from '../sandbox.js'
import type { SandboxInfo as Info } from '../../native/index.js'
import {
  type Context,
  type CreateCodeContextOpts,
  type Execution,
  type RunCodeLanguage,
  type RunCodeOpts,
  contextOf,
  runCode,
} from './code.js'
import { CloudOnly } from './cloud.js'
import { Commands, Pty } from './commands.js'
import { NotSupportedError, SandboxNotFoundError, asked, named } from './errors.js'
import { Filesystem } from './files.js'
import { Inside } from './inside.js'
import {
  OF_CREATE,
  SNAPSHOT,
  TIMEOUT_MS,
  createOptions,
  hinted,
  infoOf,
  metricsOf,
  milliseconds,
  remaining,
  stateOf,
} from './options.js'
import { SandboxPaginator } from './paginator.js'
import type {
  CommandRequestOpts,
  CreateSnapshotOpts,
  SandboxApiOpts,
  SandboxConnectOpts,
  SandboxInfo,
  SandboxListOpts,
  SandboxMetrics,
  SandboxMetricsOpts,
  SandboxOpts,
  SandboxPauseOpts,
  SnapshotInfo,
} from './types.js'

const CONTROL = { control: true }

const none = (sandboxId: string, why: string, cause?: unknown) =>
  Object.assign(new SandboxNotFoundError(`Sandbox ${sandboxId} not found${why}`, { cause }), {
    context: { sandbox: sandboxId },
  })

async function found(sandboxId: string): Promise<Machine> {
  try {
    return await Machine.connect(sandboxId)
  } catch (thrown) {
    if (thrown instanceof InvalidError) throw none(sandboxId, '', thrown)
    throw thrown
  }
}

/** A sandbox and what is known of it, unless it has ended. */
async function known(sandboxId: string): Promise<{ machine: Machine; info: Info }> {
  const machine = await found(sandboxId)
  const info = await machine.getInfo()
  if (stateOf(info) === undefined) throw none(sandboxId, `: it is ${info.phase}`)
  return { machine, info }
}

/** Finds a sandbox, resumes it if it is paused, and moves its end later. */
async function connected(sandboxId: string, opts: SandboxConnectOpts = {}): Promise<Machine> {
  return asked(opts, ['timeoutMs', 'onResume'], async () => {
    if (opts.onResume === 'reboot') {
      throw new NotSupportedError('a paused sandbox goes on where it was; kill it to reboot')
    }
    const timeoutMs = milliseconds(opts.timeoutMs ?? TIMEOUT_MS)
    const { machine, info } = await known(sandboxId)
    if (info.phase === 'paused') {
      await machine.resume()
      try {
        await machine.setTimeout(timeoutMs)
      } catch (thrown) {
        // It would run without an end.
        await machine.pause()
        throw thrown
      }
    } else if (info.ends !== null && info.ends.getTime() < Date.now() + timeoutMs) {
      await machine.setTimeout(timeoutMs)
    }
    return machine
  }, CONTROL)
}

/** A disposable machine, with E2B's names and defaults. */
export class Sandbox extends CloudOnly {
  protected static readonly defaultTemplate: string = 'base'

  /** Its id. */
  readonly sandboxId: string
  /** Undefined: ports are not published to the world. */
  readonly trafficAccessToken?: string
  /** Its commands. */
  readonly commands: Commands
  /** Its files. */
  readonly files: Filesystem
  /** Its terminals. */
  readonly pty: Pty
  readonly #machine: Machine
  readonly #inside: Inside

  /** @internal */
  constructor(machine: unknown) {
    if (!(machine instanceof Machine)) {
      throw new TypeError('use Sandbox.create() or Sandbox.connect(sandboxId)')
    }
    super()
    this.sandboxId = machine.id
    this.#machine = machine
    this.#inside = new Inside(machine)
    this.commands = new Commands(this.#inside)
    this.files = new Filesystem(this.#inside)
    this.pty = new Pty(this.#inside)
  }

  /**
   * Makes a sandbox that lives `timeoutMs`, five minutes unless it is said.
   *
   * `template` is a snapshot's id, or a template of stacyvm's provider; an image is named
   * with `image`. There is no network unless `allowInternetAccess` or `network` ask for it.
   */
  static async create<S extends typeof Sandbox>(this: S, opts?: SandboxOpts): Promise<InstanceType<S>>
  static async create<S extends typeof Sandbox>(
    this: S,
    template: string,
    opts?: SandboxOpts,
  ): Promise<InstanceType<S>>
  static async create<S extends typeof Sandbox>(
    this: S,
    first?: string | SandboxOpts,
    second?: SandboxOpts,
  ): Promise<InstanceType<S>> {
    const opts = (typeof first === 'string' ? second : first) ?? {}
    const template = typeof first === 'string' ? first : (opts.template ?? this.defaultTemplate)
    const { signal, ...asks } = opts
    const making = asked(asks, OF_CREATE, async () => {
      try {
        return await Machine.create({ ...createOptions(template, opts), signal })
      } catch (thrown) {
        throw hinted(thrown)
      }
    }, CONTROL)
    return new this(await making) as InstanceType<S>
  }

  /**
   * Finds a sandbox by its id, and resumes one that is paused. The end is moved later to
   * `timeoutMs` from now, five minutes unless it is said, never earlier.
   */
  static async connect<S extends typeof Sandbox>(
    this: S,
    sandboxId: string,
    opts?: SandboxConnectOpts,
  ): Promise<InstanceType<S>> {
    return new this(await connected(sandboxId, opts)) as InstanceType<S>
  }

  /** Resumes it if it is paused, and moves its end as the static `connect` does. */
  async connect(opts?: SandboxConnectOpts): Promise<this> {
    await connected(this.sandboxId, opts)
    return this
  }

  /** Lists the sandboxes that run or are paused, the newest first. */
  static list(opts: SandboxListOpts = {}): SandboxPaginator {
    return new SandboxPaginator(opts)
  }

  /** Ends a sandbox. False if there is none, or it had ended. */
  static async kill(sandboxId: string, opts?: SandboxApiOpts): Promise<boolean> {
    return asked(opts, [], async () => {
      try {
        return await (await found(sandboxId)).kill()
      } catch (thrown) {
        if (thrown instanceof NoneError || thrown instanceof SandboxNotFoundError) return false
        throw thrown
      }
    }, CONTROL)
  }

  /** Ends it. False if it had ended. */
  async kill(opts?: SandboxApiOpts): Promise<boolean> {
    return Sandbox.kill(this.sandboxId, opts)
  }

  /** Sets the end of a sandbox to so many milliseconds from now; 0 ends it. */
  static async setTimeout(sandboxId: string, timeoutMs: number, opts?: SandboxApiOpts): Promise<void> {
    return asked(opts, [], async () => {
      const machine = await found(sandboxId)
      if (milliseconds(timeoutMs) === 0) await machine.kill()
      else await machine.setTimeout(timeoutMs)
    }, CONTROL)
  }

  /** Sets its end to so many milliseconds from now; 0 ends it. */
  async setTimeout(timeoutMs: number, opts?: SandboxApiOpts): Promise<void> {
    return Sandbox.setTimeout(this.sandboxId, timeoutMs, opts)
  }

  /** What is known of a sandbox. */
  static async getInfo(sandboxId: string, opts?: SandboxApiOpts): Promise<SandboxInfo> {
    return asked(opts, [], async () => {
      const { info } = await known(sandboxId)
      return infoOf(info, stateOf(info)!)
    }, CONTROL)
  }

  /** The same. */
  static async getFullInfo(sandboxId: string, opts?: SandboxApiOpts): Promise<SandboxInfo> {
    return this.getInfo(sandboxId, opts)
  }

  /** What is known of it. */
  async getInfo(opts?: SandboxApiOpts): Promise<SandboxInfo> {
    return Sandbox.getInfo(this.sandboxId, opts)
  }

  /** Whether commands can run in it now. */
  async isRunning(opts?: CommandRequestOpts): Promise<boolean> {
    return asked(opts, [], () => this.#machine.isRunning())
  }

  /** What a sandbox uses now: a list of one, for the past is not kept. */
  static async getMetrics(sandboxId: string, opts?: SandboxMetricsOpts): Promise<SandboxMetrics[]> {
    return asked(opts, ['start', 'end'], async () => {
      const { machine, info } = await known(sandboxId)
      return [metricsOf(info, await machine.metrics())]
    }, CONTROL)
  }

  /** What it uses now: a list of one, for the past is not kept. */
  async getMetrics(opts?: SandboxMetricsOpts): Promise<SandboxMetrics[]> {
    return Sandbox.getMetrics(this.sandboxId, opts)
  }

  /**
   * Stops every process of a sandbox until `connect`. Its memory stays in use, and it has
   * no end while it is paused. False if it was paused.
   */
  static async pause(sandboxId: string, opts?: SandboxPauseOpts): Promise<boolean> {
    return asked(opts, ['keepMemory'], async () => {
      if (opts?.keepMemory === false) {
        throw new NotSupportedError('processes are stopped and kept; leave `keepMemory` out')
      }
      const { machine, info } = await known(sandboxId)
      if (info.phase === 'paused') return false
      // In this order: who is inside keeps the time on some providers.
      await machine.setTimeout(null)
      try {
        await machine.pause()
      } catch (thrown) {
        await machine.setTimeout(remaining(info))
        throw thrown
      }
      return true
    }, CONTROL)
  }

  /** Stops every process until `connect`, as the static `pause` does. */
  async pause(opts?: SandboxPauseOpts): Promise<boolean> {
    return Sandbox.pause(this.sandboxId, opts)
  }

  /** `pause`, by E2B's name of before. */
  static async betaPause(sandboxId: string, opts?: SandboxPauseOpts): Promise<boolean> {
    return this.pause(sandboxId, opts)
  }

  /** `pause`, by E2B's name of before. */
  async betaPause(opts?: SandboxPauseOpts): Promise<boolean> {
    return this.pause(opts)
  }

  /** Saves a sandbox; `create(snapshotId)` makes sandboxes from that. */
  static async createSnapshot(sandboxId: string, opts?: CreateSnapshotOpts): Promise<SnapshotInfo> {
    return asked(opts, ['name'], async () => {
      if (opts?.name !== undefined) throw new NotSupportedError('snapshots have no names; keep `snapshotId`')
      const { machine } = await known(sandboxId)
      return { snapshotId: SNAPSHOT + (await machine.snapshot()).id, names: [] }
    }, CONTROL)
  }

  /** Saves it; `create(snapshotId)` makes sandboxes from that. */
  async createSnapshot(opts?: CreateSnapshotOpts): Promise<SnapshotInfo> {
    return Sandbox.createSnapshot(this.sandboxId, opts)
  }

  /**
   * Runs code in an interpreter that keeps its state between calls. `TimeoutError` where
   * it took longer than `timeoutMs`; its state is kept.
   */
  async runCode(code: string, opts?: RunCodeOpts & { language?: RunCodeLanguage }): Promise<Execution>
  async runCode(code: string, opts?: RunCodeOpts & { context?: Context }): Promise<Execution>
  async runCode(code: string, opts?: RunCodeOpts): Promise<Execution> {
    return runCode(this.#machine, code, opts)
  }

  /** Makes an interpreter apart from the others. */
  async createCodeContext(opts: CreateCodeContextOpts = {}): Promise<Context> {
    return asked(opts, ['cwd', 'language'], async () => {
      const { home } = await this.#inside.places(undefined)
      const { cwd = home, language = 'python' } = opts
      return contextOf(await this.#machine.createCodeContext({ cwd, language }), home)
    })
  }

  /** The interpreters of this object. */
  async listCodeContexts(): Promise<Context[]> {
    return asked(undefined, [], async () => {
      const { home } = await this.#inside.places(undefined)
      return (await this.#machine.listCodeContexts()).map((context) => contextOf(context, home))
    })
  }

  /** Ends an interpreter. */
  async removeCodeContext(context: Context | string): Promise<void> {
    const id = typeof context === 'string' ? context : context.id
    return asked(undefined, [], () => this.#machine.removeCodeContext(id))
  }

  /** The host and port at which others reach a port of it. The thread waits for it. */
  getHost(port: number): string {
    try {
      return calledNow(() => halves.get(this.#machine)!.endpointNow(port))
    } catch (thrown) {
      const more =
        '. Make it with a provider that publishes ports: ' +
        `\`Sandbox.create({ provider: 'docker', ports: [{ guest: ${port} }] })\``
      throw named(thrown, false, thrown instanceof UnsupportedError ? more : '')
    }
  }
}
