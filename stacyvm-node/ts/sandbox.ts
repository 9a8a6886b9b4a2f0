import * as native from '../native/index.js'
import { called } from './call.js'
import { Commands, type RunOptions } from './commands.js'
import { defaultEngine, type ListOptions } from './engine.js'
import { Files } from './files.js'
import { Pty } from './pty.js'
import type { CommandResult } from './result.js'

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
    this.#id = made.id
    this.commands = new Commands(made)
    this.files = new Files(made)
    this.pty = new Pty(made)
  }

  /** Makes a sandbox and resolves when a command can run in it. */
  static create(options?: native.CreateOptions): Promise<Sandbox> {
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
    return called(this.#native.endpoint(port))
  }

  /** The URL at which others reach a port of it. */
  async getUrl(port: number): Promise<string> {
    const host = await called(this.#native.endpoint(port))
    return host.includes('://') ? host : `http://${host}`
  }

  /** Sets its end to so many milliseconds from now; null removes it. */
  async setTimeout(timeoutMs: number | null): Promise<void> {
    await called(this.#native.setTtl(timeoutMs))
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
