import type * as native from '../native/index.js'
import { called, refuse, texts, untilAborted } from './call.js'
import type { HowToRun } from './commands.js'
import { CommandResult } from './result.js'

/** What runs on a terminal, and how. */
export interface PtyOptions extends HowToRun {
  /** `/bin/sh` unless told otherwise. */
  cmd?: native.Command
  rows?: number
  cols?: number
}

/** Terminals in a sandbox. */
export class Pty {
  readonly #native: native.Sandbox

  /** @internal */
  constructor(sandbox: native.Sandbox) {
    this.#native = sandbox
  }

  /** Starts a command on a terminal of this size, of 24 rows and 80 columns if none. */
  async create(options: PtyOptions = {}): Promise<PtyHandle> {
    const { cmd = ['/bin/sh'], rows = 24, cols = 80, ...rest } = options
    const { env, cwd, user, timeoutMs, maxOutput, ...unknown } = rest
    refuse(unknown)
    const how = { env: texts('env', env), cwd, user, timeoutMs, maxOutput, openStdin: true }
    const started = this.#native.start(cmd, { ...how, size: [rows, cols] })
    return new PtyHandle(await called(started))
  }
}

/** A command on a terminal. Iterating gives what the terminal shows, in bytes. */
export class PtyHandle {
  readonly #native: native.Process
  readonly #id: string
  readonly #pid: number | null

  /** @internal */
  constructor(started: native.Process) {
    this.#native = started
    this.#id = started.id
    this.#pid = started.pid
  }

  /** The command's id. */
  get id(): string {
    return this.#id
  }

  /** The number of its first process inside. */
  get pid(): number | null {
    return this.#pid
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Buffer, void, undefined> {
    for (;;) {
      const event = await called(this.#native.nextEvent())
      if (!event || event.exit) return
      if (event.stdout) yield event.stdout
    }
  }

  /** Types. */
  async sendInput(data: native.Raw): Promise<void> {
    await called(this.#native.writeStdin(data))
  }

  /** Sets the size of the terminal. */
  async resize(rows: number, cols: number): Promise<void> {
    await called(this.#native.resize(rows, cols))
  }

  /** Waits for its end. Aborting the signal kills its whole tree. */
  async wait(options: { signal?: AbortSignal } = {}): Promise<CommandResult> {
    const { signal, ...unknown } = options
    refuse(unknown)
    const end = () => called(this.#native.waitForEnd())
    return new CommandResult(await untilAborted(signal, () => this.kill(), end))
  }

  /** Kills its whole tree. */
  async kill(): Promise<void> {
    await called(this.#native.kill())
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill()
  }
}
