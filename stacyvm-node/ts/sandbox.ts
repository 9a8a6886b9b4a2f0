import type { Duplex } from 'node:stream'
import * as native from '../native/index.js'
import { called, invalid, refuse, untilAborted } from './call.js'
import { Commands, type RunOptions } from './commands.js'
import { type CreateOptions, defaultEngine, type ListOptions } from './engine.js'
import { Files } from './files.js'
import { halves } from './internal.js'
import { entriesOf, type LogEntry, type LogsOptions } from './logs.js'
import { Listener, streamOf } from './ports.js'
import { Pty } from './pty.js'
import type { CommandResult } from './result.js'

/** Where and how long code runs, and what is told meanwhile. */
export interface RunCodeOptions extends Pick<native.HowToRunCode, 'language' | 'timeoutMs'> {
  /** The interpreter in which it runs. */
  context?: native.CodeContext | string
  /** Is called with text as it comes, and awaited. */
  onStdout?: (text: string) => unknown
  /** The same of standard error. */
  onStderr?: (text: string) => unknown
  /** Is called with each value that is shown. */
  onResult?: (result: native.CodeResult) => unknown
  /** Is called with what the code raises. */
  onError?: (error: native.CodeError) => unknown
  /** Ends the interpreter when it is aborted, and rejects with its reason. */
  signal?: AbortSignal
}

/** What an interpreter is made with. */
export interface CodeContextOptions {
  language?: string
  cwd?: string
}

/**
 * A disposable machine.
 *
 * `await using sandbox = await Sandbox.create()` ends it with the block; otherwise it
 * lives until its timeout, and other processes find it by its id.
 */
export class Sandbox {
  readonly #native: native.Sandbox
  readonly #id: string
  /** Its commands. */
  readonly commands: Commands
  /** Its files. */
  readonly files: Files
  /** Its terminals. */
  readonly pty: Pty

  /** @internal */
  constructor(made: native.Sandbox) {
    if (!(made instanceof native.Sandbox)) {
      throw new TypeError('use Sandbox.create() or Sandbox.connect(id)')
    }
    this.#native = made
    halves.set(this, made)
    this.#id = made.id
    this.commands = new Commands(made)
    this.files = new Files(made)
    this.pty = new Pty(made)
  }

  /** Makes a sandbox and resolves when a command can run in it. */
  static create(options?: CreateOptions): Promise<Sandbox> {
    return defaultEngine().create(options)
  }

  /** Finds a sandbox by its id. Its end stays where it is. */
  static connect(sandboxId: string): Promise<Sandbox> {
    return defaultEngine().connect(sandboxId)
  }

  /** Lists sandboxes in the order of their ids. */
  static list(options?: ListOptions): AsyncGenerator<native.SandboxInfo, void, undefined> {
    return defaultEngine().list(options)
  }

  /** Its id. */
  get id(): string {
    return this.#id
  }

  /** Its id. */
  get sandboxId(): string {
    return this.#id
  }

  /** Runs a command without a shell and gathers its output. */
  exec(argv: native.Raw[], options?: RunOptions): Promise<CommandResult> {
    return this.commands.run(argv, options)
  }

  /**
   * Runs code in an interpreter (Python) that keeps its state between calls.
   *
   * What the code raises is told by `error`. The interpreter is this object's: another
   * process, or another object of the same sandbox, has one of its own.
   */
  async runCode(code: string, options: RunCodeOptions = {}): Promise<native.Execution> {
    const { language, context, timeoutMs, signal, onStdout, onStderr, onResult, onError, ...unknown } = options
    refuse(unknown)
    signal?.throwIfAborted()
    const within = typeof context === 'object' ? context.id : context
    const how = { language, context: within, timeoutMs }
    if (!signal && !onStdout && !onStderr && !onResult && !onError) {
      return called(this.#native.runCode(code, how))
    }
    const running = await called(this.#native.startCode(code, how))
    const work = async (): Promise<native.Execution> => {
      for (;;) {
        const event = await called(running.nextEvent())
        if (!event) return called(running.execution())
        if (event.stdout !== undefined) await onStdout?.(event.stdout)
        if (event.stderr !== undefined) await onStderr?.(event.stderr)
        if (event.result !== undefined) await onResult?.(event.result)
        if (event.error !== undefined) await onError?.(event.error)
      }
    }
    const giveUp = () => called(running.giveUp())
    try {
      return await untilAborted(signal, giveUp, work)
    } catch (thrown) {
      // Nobody reads it any more.
      await giveUp().catch(() => {})
      throw thrown
    }
  }

  /** Makes an interpreter apart from the others, which begins in `cwd`. */
  async createCodeContext(options: CodeContextOptions = {}): Promise<native.CodeContext> {
    const { language = 'python', cwd, ...unknown } = options
    refuse(unknown)
    return called(this.#native.codeContext(language, cwd))
  }

  /** The interpreters of this object. */
  async listCodeContexts(): Promise<native.CodeContext[]> {
    return this.#native.codeContexts()
  }

  /** Ends an interpreter. One that is not there is success. */
  async removeCodeContext(context: native.CodeContext | string): Promise<void> {
    this.#native.removeCodeContext(typeof context === 'object' ? context.id : context)
  }

  /** What is known of it. */
  async getInfo(): Promise<native.SandboxInfo> {
    return called(this.#native.info())
  }

  /** Whether commands can run in it now. */
  async isRunning(): Promise<boolean> {
    return (await called(this.#native.info())).phase === 'running'
  }

  /** The host and port, or the URL, at which others reach a port of it. */
  async getHost(port: number): Promise<string> {
    return (await this.getEndpoint(port)).address
  }

  /** The URL at which others reach a port of it. */
  async getUrl(port: number): Promise<string> {
    return (await this.getEndpoint(port)).url
  }

  /** Where others reach a port of it, and with which headers. */
  async getEndpoint(port: number): Promise<native.Endpoint> {
    return called(this.#native.endpoint(port))
  }

  /** Connects to a TCP port inside, without any network of the sandbox. */
  async dial(port: number): Promise<Duplex> {
    return streamOf(await called(this.#native.dial(port)))
  }

  /** Listens on a TCP port inside; 0 chooses one. Programs inside connect to it: 128 wait at
   * most to be accepted, more are closed. */
  async listen(port = 0): Promise<Listener> {
    return new Listener(await called(this.#native.listen(port)))
  }

  /** Reads what is kept of the output of a command, or of all. */
  async *logs(
    commandId?: string,
    options: LogsOptions = {},
  ): AsyncGenerator<LogEntry, void, undefined> {
    const { follow, since, signal, ...unknown } = options
    refuse(unknown)
    signal?.throwIfAborted()
    const which = { command: commandId, follow, sinceMs: since?.getTime() }
    yield* entriesOf(await called(this.#native.logs(which)), signal)
  }

  /** Sets its end to so many milliseconds from now; null removes it. */
  async setTimeout(timeoutMs: number | null): Promise<void> {
    if (timeoutMs === undefined) throw invalid('timeoutMs', 'milliseconds, or null for no end')
    await called(this.#native.setTtl(timeoutMs))
  }

  /**
   * Has it end with this process, whatever ends that, or with none: then at its
   * `timeoutMs`. It ends with the last process that asked for `attached`.
   */
  async setLifetime(lifetime: 'attached' | 'detached'): Promise<void> {
    await called(this.#native.setLifetime(lifetime))
  }

  /** Moves its end later by so many milliseconds. */
  async extend(byMs: number): Promise<void> {
    await called(this.#native.extend(byMs))
  }

  /** What it uses. */
  async metrics(): Promise<native.SandboxMetrics> {
    return called(this.#native.metrics())
  }

  /** Lists the processes inside. */
  async processes(): Promise<native.ProcessInfo[]> {
    return called(this.#native.processes())
  }

  /** What its provider can do here. */
  async capabilities(): Promise<Record<string, unknown>> {
    return JSON.parse(await called(this.#native.capabilities()))
  }

  /** Stops every process. */
  async pause(): Promise<void> {
    await called(this.#native.pause())
  }

  /** Lets the processes go on. */
  async resume(): Promise<void> {
    await called(this.#native.resume())
  }

  /** Saves it; `create({ snapshot })` makes sandboxes from that. */
  async snapshot(): Promise<native.SnapshotInfo> {
    return called(this.#native.snapshot())
  }

  /** Ends it, and resolves when nothing of it is left. False if it had ended. */
  async kill(): Promise<boolean> {
    return called(this.#native.kill())
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill()
  }
}
