import { constants } from 'node:os'
import { StringDecoder } from 'node:string_decoder'
import type * as native from '../native/index.js'
import { called, invalid, refuse, texts, untilAborted } from './call.js'
import { CommandFailedError } from './errors.js'
import { CommandResult } from './result.js'

/** What all commands take. */
export type HowToRun = Pick<native.HowToRun, 'env' | 'cwd' | 'user' | 'timeoutMs' | 'maxOutput'>

/** How a command is waited for. */
export interface WaitOptions {
  /** Is called with text as it comes, and awaited; characters are never cut in two. */
  onStdout?: (text: string) => unknown
  /** The same of standard error. */
  onStderr?: (text: string) => unknown
  /** Rejects with `CommandFailedError` unless it exits with 0. */
  check?: boolean
  /** Kills the whole tree when it is aborted, and rejects with its reason. */
  signal?: AbortSignal
}

/** How a command is run to its end. */
export interface RunOptions extends HowToRun, WaitOptions {
  background?: false
  /** Its standard input, which then ends. */
  stdin?: native.Raw
}

/** How a command is started that outlives this process. */
export interface StartOptions extends HowToRun {
  background: true
  /** Its standard input; `true` keeps it open for `sendStdin`. */
  stdin?: native.Raw | boolean
  /** Nothing is started if it is aborted already. */
  signal?: AbortSignal
}

/** Which processes of a command a signal is for. */
export interface SignalOptions {
  /** Its first process, the group of that, or all that it started. */
  scope?: 'process' | 'group' | 'tree'
}

/** Output as it comes. */
export interface Chunk {
  stdout?: string
  stderr?: string
  /** Bytes of both streams that nobody read in time and that are gone. */
  lost?: native.Lost
}

function numberOf(signal: NodeJS.Signals | number): number {
  const number = typeof signal === 'number' ? signal : constants.signals[signal]
  if (number === undefined) throw invalid('signal', 'a name of a signal, such as SIGTERM, or its number')
  return number
}

/** The commands of a sandbox. */
export class Commands {
  readonly #native: native.Sandbox

  /** @internal */
  constructor(sandbox: native.Sandbox) {
    this.#native = sandbox
  }

  /**
   * Runs a command: text for the shell inside, or a list of arguments without one.
   *
   * A non-zero exit is a result unless `check`. `timeoutMs` kills the whole tree after so
   * many milliseconds. With `background` it resolves once the command has started, which
   * then outlives this process.
   */
  async run(command: native.Command, options: StartOptions): Promise<CommandHandle>
  async run(command: native.Command, options?: RunOptions): Promise<CommandResult>
  async run(
    command: native.Command,
    options: RunOptions | StartOptions = {},
  ): Promise<CommandResult | CommandHandle> {
    const { background, stdin, signal, env, cwd, user, timeoutMs, maxOutput, ...rest } = options
    const { onStdout, onStderr, check, ...unknown } = rest as WaitOptions
    refuse(background ? rest : unknown)
    signal?.throwIfAborted()
    if (stdin === true && !background) throw invalid('stdin', 'data; one that stays open needs `background`')
    const how: native.HowToRun = { env: texts('env', env), cwd, user, timeoutMs, maxOutput, background }
    if (typeof stdin === 'boolean') how.openStdin = stdin
    else how.input = stdin
    if (background) return new CommandHandle(await called(this.#native.start(command, how)))
    if (!onStdout && !onStderr && !signal) {
      return checked(await called(this.#native.run(command, how)), check)
    }
    const started = new CommandHandle(await called(this.#native.start(command, how)))
    return started.wait({ onStdout, onStderr, check, signal })
  }

  /** Follows a background command: kept output first, then what comes. */
  async connect(commandId: string, options: { stdin?: boolean } = {}): Promise<CommandHandle> {
    const { stdin = false, ...unknown } = options
    refuse(unknown)
    return new CommandHandle(await called(this.#native.attach(commandId, stdin, true)))
  }

  /** Lists commands: those that run, those with survivors, those remembered. */
  async list(): Promise<native.CommandInfo[]> {
    return called(this.#native.commands())
  }

  /** Sends a signal to a command. */
  async sendSignal(
    commandId: string,
    signal: NodeJS.Signals | number,
    options: SignalOptions = {},
  ): Promise<void> {
    const { scope = 'process', ...unknown } = options
    refuse(unknown)
    await called(this.#native.signal(commandId, numberOf(signal), scope))
  }

  /** Kills the whole tree of a command. */
  async kill(commandId: string): Promise<void> {
    await called(this.#native.signal(commandId, constants.signals.SIGKILL, 'tree'))
  }
}

/** A command that was started. Iterating gives its output as it comes. */
export class CommandHandle {
  readonly #native: native.Process
  readonly #id: string
  readonly #pid: number | null
  #exit: native.ExitInfo | null = null
  readonly #stdout = new StringDecoder()
  readonly #stderr = new StringDecoder()

  /** @internal */
  constructor(started: native.Process) {
    this.#native = started
    this.#id = started.id
    this.#pid = started.pid
  }

  /** Its id, by which `commands.connect` finds it. */
  get id(): string {
    return this.#id
  }

  /** The number of its first process inside. */
  get pid(): number | null {
    return this.#pid
  }

  /** How it ended, once its end was read. */
  get exit(): native.ExitInfo | null {
    return this.#exit
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Chunk, void, undefined> {
    for (;;) {
      const event = await called(this.#native.nextEvent())
      this.#exit ??= event?.exit ?? null
      if (!event || event.exit) break
      const chunk: Chunk = {}
      const stdout = event.stdout && this.#stdout.write(event.stdout)
      const stderr = event.stderr && this.#stderr.write(event.stderr)
      if (stdout) chunk.stdout = stdout
      if (stderr) chunk.stderr = stderr
      if (event.lost) chunk.lost = event.lost
      if (stdout || stderr || event.lost) yield chunk
    }
    const [stdout, stderr] = [this.#stdout.end(), this.#stderr.end()]
    if (stdout) yield { stdout }
    if (stderr) yield { stderr }
  }

  /** Waits for its end. What was read before is part of the result. */
  async wait(options: WaitOptions = {}): Promise<CommandResult> {
    const { onStdout, onStderr, check, signal, ...unknown } = options
    refuse(unknown)
    const read = async (): Promise<native.Output> => {
      if (onStdout || onStderr) await this.#tell(onStdout, onStderr)
      const output = await called(this.#native.waitForEnd())
      this.#exit = output.exit
      return output
    }
    return checked(await untilAborted(signal, () => this.kill(), read), check)
  }

  async #tell(onStdout: WaitOptions['onStdout'], onStderr: WaitOptions['onStderr']): Promise<void> {
    try {
      for await (const { stdout, stderr } of this) {
        if (stdout) await onStdout?.(stdout)
        if (stderr) await onStderr?.(stderr)
      }
    } catch (thrown) {
      // Nobody reads it any more.
      await this.kill().catch(() => {})
      throw thrown
    }
  }

  /** Writes to its standard input; waits while it does not read. */
  async sendStdin(data: native.Raw): Promise<void> {
    await called(this.#native.writeStdin(data))
  }

  /** Closes its standard input. */
  async closeStdin(): Promise<void> {
    await called(this.#native.closeStdin())
  }

  /** Sends it a signal. */
  async sendSignal(signal: NodeJS.Signals | number, options: SignalOptions = {}): Promise<void> {
    const { scope = 'process', ...unknown } = options
    refuse(unknown)
    await called(this.#native.signal(numberOf(signal), scope))
  }

  /** Kills its whole tree. One that has ended is success. */
  async kill(): Promise<void> {
    await called(this.#native.kill())
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill()
  }
}

function checked(output: native.Output, check = false): CommandResult {
  const result = new CommandResult(output)
  if (!check || result.ok) return result
  const { reason, exitCode, signal } = result.exit
  const told = exitCode ?? signal
  const ended = told === null ? reason.replaceAll('_', ' ') : `${reason} ${told}`
  // Of text from inside no terminal is moved or cleared.
  const escape = (letter: string) => `\\u{${letter.codePointAt(0)!.toString(16)}}`
  const said = result.stderr.trim().slice(-2000).replace(/[^\P{C}\n\t]/gu, escape)
  throw new CommandFailedError(`the command ended with ${ended}${said && `: ${said}`}`, result)
}
