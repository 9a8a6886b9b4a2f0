import type * as native from '../../native/index.js'
import { called } from '../call.js'
import { asked } from './errors.js'
import { Reader } from './feed.js'
import { CommandHandle, type Told } from './handle.js'
import type { Inside } from './inside.js'
import type {
  CommandConnectOpts,
  CommandRequestOpts,
  CommandResult,
  CommandStartOpts,
  ProcessInfo,
  PtyConnectOpts,
  PtyCreateOpts,
} from './types.js'

const OF_RUN = ['background', 'cwd', 'user', 'envs', 'onStdout', 'onStderr', 'stdin', 'timeoutMs']
const OF_CONNECT = ['onStdout', 'onStderr', 'timeoutMs']
const OF_PTY = ['cols', 'rows', 'onData', 'timeoutMs', 'user', 'envs', 'cwd']

async function started(inside: Inside, argv: string[], how: native.HowToRun, told: Told): Promise<CommandHandle> {
  const made = await called(inside.native.start(argv, how))
  return new CommandHandle(inside, Reader.of(inside.native, made, how.size !== undefined), told)
}

/** The commands of a sandbox. */
export class Commands {
  readonly #inside: Inside

  /** @internal */
  constructor(inside: Inside) {
    this.#inside = inside
  }

  /** Lists the commands and terminals that run. */
  async list(opts?: CommandRequestOpts): Promise<ProcessInfo[]> {
    return asked(opts, [], async () => {
      const found: ProcessInfo[] = []
      for (const { pid, argv, exit } of await this.#inside.machine.commands.list()) {
        const [cmd, ...args] = argv
        if (exit === null && pid !== null && cmd !== undefined) found.push({ pid, cmd, args, envs: {} })
      }
      return found
    })
  }

  /** Kills a command by its pid. False if none runs. */
  async kill(pid: number, opts?: CommandRequestOpts): Promise<boolean> {
    return asked(opts, [], () => this.#inside.kill(pid))
  }

  /** Writes to the standard input of a command. */
  async sendStdin(pid: number, data: string | Uint8Array, opts?: CommandRequestOpts): Promise<void> {
    return asked(opts, [], () => this.#inside.with(pid, (command) => command.writeStdin(data)))
  }

  /** Closes the standard input of a command. */
  async closeStdin(pid: number, opts?: CommandRequestOpts): Promise<void> {
    return asked(opts, [], () => this.#inside.with(pid, (command) => command.closeStdin()))
  }

  /**
   * Runs a line in a login shell, `bash` where it is there, in the user's home.
   *
   * `CommandExitError` where it does not exit with 0, and `TimeoutError` where it was
   * ended at its `timeoutMs`, in the background too; 0 is endless.
   */
  async run(cmd: string, opts?: CommandStartOpts & { background?: false }): Promise<CommandResult>
  async run(cmd: string, opts: CommandStartOpts & { background: true }): Promise<CommandHandle>
  async run(cmd: string, opts?: CommandStartOpts): Promise<CommandHandle | CommandResult>
  async run(cmd: string, opts: CommandStartOpts = {}): Promise<CommandHandle | CommandResult> {
    const { background, stdin, onStdout, onStderr, signal } = opts
    let handle: CommandHandle | undefined
    const work = async () => {
      const { shell } = await this.#inside.places(opts.user)
      const argv = [shell, '-l', '-c', cmd]
      const how = await this.#inside.how(opts)
      signal?.throwIfAborted()
      handle = await started(this.#inside, argv, { ...how, background, openStdin: stdin }, { onStdout, onStderr })
      // It was not there yet to be killed.
      if (signal?.aborted) await handle.kill()
      return background ? handle : handle.wait()
    }
    return asked(opts, OF_RUN, work, { kill: async () => handle?.kill() })
  }

  /**
   * Follows a command by its pid: what comes from now on. `timeoutMs` is taken and means
   * nothing: the command keeps its own.
   */
  async connect(pid: number, opts: CommandConnectOpts = {}): Promise<CommandHandle> {
    const { onStdout, onStderr } = opts
    return asked(opts, OF_CONNECT, async () => {
      return new CommandHandle(this.#inside, await this.#inside.reader(pid), { onStdout, onStderr })
    })
  }
}

/** The terminals of a sandbox. */
export class Pty {
  readonly #inside: Inside

  /** @internal */
  constructor(inside: Inside) {
    this.#inside = inside
  }

  /** Starts a login shell on a terminal. */
  async create(opts: PtyCreateOpts): Promise<CommandHandle> {
    const { rows, cols, onData } = opts
    return asked(opts, OF_PTY, async () => {
      const { shell } = await this.#inside.places(opts.user)
      const envs = { TERM: 'xterm-256color', LANG: 'C.UTF-8', LC_ALL: 'C.UTF-8', ...opts.envs }
      const how = await this.#inside.how({ ...opts, envs })
      const of = { ...how, background: true, openStdin: true, size: [rows, cols] as [number, number] }
      return started(this.#inside, [shell, '-i', '-l'], of, { onPty: onData })
    })
  }

  /** Follows a terminal by its pid, as `commands.connect` does a command. */
  async connect(pid: number, opts?: PtyConnectOpts): Promise<CommandHandle> {
    return asked(opts, ['onData', 'timeoutMs'], async () => {
      return new CommandHandle(this.#inside, await this.#inside.reader(pid), { onPty: opts?.onData })
    })
  }

  /** Types. */
  async sendInput(pid: number, data: Uint8Array, opts?: CommandRequestOpts): Promise<void> {
    return asked(opts, [], () => this.#inside.with(pid, (command) => command.writeStdin(data)))
  }

  /** Sets the size of a terminal. */
  async resize(pid: number, size: { cols: number; rows: number }, opts?: CommandRequestOpts): Promise<void> {
    const { rows, cols } = size
    return asked(opts, [], () => this.#inside.with(pid, (command) => command.resize(rows, cols)))
  }

  /** Kills the shell of a terminal and its children. False if none runs. */
  async kill(pid: number, opts?: CommandRequestOpts): Promise<boolean> {
    return asked(opts, [], () => this.#inside.kill(pid))
  }
}
