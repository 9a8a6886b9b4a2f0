import { StringDecoder } from 'node:string_decoder'
import type * as native from '../../native/index.js'
import { called } from '../call.js'
import { SandboxError, asked, named } from './errors.js'
import { checked, resultOf } from './exits.js'
import type { Reader } from './feed.js'
import type { Inside } from './inside.js'
import type { CommandRequestOpts, CommandResult } from './types.js'

/** Who is told of output. */
export interface Told {
  onStdout?: (text: string) => unknown
  onStderr?: (text: string) => unknown
  onPty?: (bytes: Uint8Array) => unknown
}

/** One of the two streams as text. */
class Stream {
  text = ''
  readonly #decoder = new StringDecoder()
  readonly #told: ((text: string) => unknown) | undefined

  constructor(told: ((text: string) => unknown) | undefined) {
    this.#told = told
  }

  /** What comes; its end without bytes. */
  async take(bytes?: Buffer): Promise<void> {
    const piece = bytes === undefined ? this.#decoder.end() : this.#decoder.write(bytes)
    if (piece === '') return
    this.text += piece
    await this.#told?.(piece)
  }
}

/** A command or a terminal that was started. What it says is read as it comes. */
export class CommandHandle {
  /** The number of its first process inside. */
  readonly pid: number
  readonly #inside: Inside
  readonly #reader: Reader
  readonly #stdout: Stream
  readonly #stderr: Stream
  readonly #onPty: Told['onPty']
  readonly #read: Promise<void>
  #disconnected = false
  #result: CommandResult | undefined
  #failure: { thrown: unknown } | undefined

  /** @internal */
  constructor(inside: Inside, reader: Reader, told: Told) {
    this.pid = reader.native.pid ?? 0
    this.#inside = inside
    this.#reader = reader
    this.#stdout = new Stream(told.onStdout)
    this.#stderr = new Stream(told.onStderr)
    this.#onPty = told.onPty
    this.#read = this.#follow()
  }

  /** Its exit code, once it ended. */
  get exitCode(): number | undefined {
    return this.#result?.exitCode
  }

  /** How it failed, once it has. */
  get error(): string | undefined {
    return this.#result?.error
  }

  /** Its standard output so far. */
  get stdout(): string {
    return this.#stdout.text
  }

  /** Its standard error so far. */
  get stderr(): string {
    return this.#stderr.text
  }

  async #follow(): Promise<void> {
    try {
      let exit: native.ExitInfo | null | undefined
      while (exit === undefined) {
        const event = await this.#reader.next()
        if (this.#disconnected) return
        exit = event === undefined ? this.#reader.native.exit : event.exit
        if (event !== undefined) await this.#take(event)
      }
      if (exit === null) return
      await this.#stdout.take()
      await this.#stderr.take()
      this.#result = resultOf(exit, this.stdout, this.stderr)
    } catch (thrown) {
      this.#failure = { thrown: named(thrown) }
    } finally {
      this.#reader.close()
    }
  }

  async #take(event: native.Event): Promise<void> {
    if (event.lost) {
      const bytes = event.lost.stdout + event.lost.stderr
      process.emitWarning(`${bytes} bytes of output came faster than they were read and are lost`)
    }
    if (event.stdout && this.#reader.tty) await this.#onPty?.(event.stdout)
    else if (event.stdout) await this.#stdout.take(event.stdout)
    if (event.stderr) await this.#stderr.take(event.stderr)
  }

  /** Waits for its end. `CommandExitError` where it does not exit with 0. */
  async wait(): Promise<CommandResult> {
    await this.#read
    if (this.#failure !== undefined) throw this.#failure.thrown
    if (this.#result !== undefined) return checked(this.#result)
    throw new SandboxError('the command is followed no more; connect to it again')
  }

  /** Reads no more; the command goes on. */
  async disconnect(): Promise<void> {
    this.#disconnected = true
    this.#reader.close()
  }

  /** Kills it and its children. False if it had ended. */
  async kill(): Promise<boolean> {
    return asked(undefined, [], () => this.#inside.killed(this.#reader.native.id))
  }

  /** Writes to its standard input. */
  async sendStdin(data: string | Uint8Array, opts?: CommandRequestOpts): Promise<void> {
    return asked(opts, [], () => this.#with((command) => command.writeStdin(data)))
  }

  /** Closes its standard input. */
  async closeStdin(opts?: CommandRequestOpts): Promise<void> {
    return asked(opts, [], () => this.#with((command) => command.closeStdin()))
  }

  async #with(work: (command: native.Process) => Promise<unknown>): Promise<void> {
    if (this.#disconnected) await this.#inside.with(this.pid, work)
    else await called(work(this.#reader.native))
  }
}
