import { constants } from 'node:os'
import { posix } from 'node:path'
import type * as native from '../../native/index.js'
import { called } from '../call.js'
import type { HowToRun } from '../commands.js'
import { NotFoundError as NoneError } from '../errors.js'
import { halves } from '../internal.js'
import type { Sandbox as Machine } from '../sandbox.js'
import { NotFoundError } from './errors.js'
import { Reader } from './feed.js'
import { patience } from './options.js'

const LOOK = 'if [ -x /bin/bash ]; then echo /bin/bash; else echo /bin/sh; fi; cd && pwd || echo /'
/** E2B's `root` may enter the home of `user`. Here `root` has no rights over others. */
const OPEN = '; chmod go+rx . 2>/dev/null || true'

/** The login shell and the home of a user. */
export interface Places {
  shell: string
  home: string
}

/** What the image of a sandbox has: the shell and the homes of its users. */
export class Inside {
  readonly machine: Machine
  /** The native half of the sandbox. */
  readonly native: native.Sandbox
  readonly #known = new Map<string | undefined, Promise<Places>>()

  constructor(machine: Machine) {
    this.machine = machine
    this.native = halves.get(machine)!
  }

  /** E2B's user `user` is the default one of every sandbox here. */
  user(user: string | undefined): string | undefined {
    return user === 'user' ? undefined : user
  }

  /** The login shell and the home of a user. */
  places(given: string | undefined): Promise<Places> {
    const user = this.user(given)
    let known = this.#known.get(user)
    if (known === undefined) {
      known = this.#look(user)
      this.#known.set(user, known)
      known.catch(() => this.#known.delete(user))
    }
    return known
  }

  async #look(user: string | undefined): Promise<Places> {
    if (user !== undefined) await this.places(undefined)
    const line = user === undefined ? LOOK + OPEN : LOOK
    const how = { user, check: true, timeoutMs: 60_000 }
    const { stdout } = await this.machine.commands.run(['/bin/sh', '-c', line], how)
    const [shell = '/bin/sh', home = '/'] = stdout.split('\n')
    return { shell, home }
  }

  /** An absolute path: others begin in the user's home. */
  async path(path: string, user: string | undefined): Promise<string> {
    if (path.startsWith('/')) return path
    const { home } = await this.places(user)
    return posix.resolve(home, path === '~' || path.startsWith('~/') ? path.slice(2) : path)
  }

  /** How a line of the shell is run. */
  async how(opts: {
    cwd?: string
    user?: string
    envs?: Record<string, string>
    timeoutMs?: number
  }): Promise<HowToRun> {
    return {
      env: { E2B_SANDBOX: 'true', E2B_SANDBOX_ID: this.machine.id, ...opts.envs },
      user: this.user(opts.user),
      cwd: await this.path(opts.cwd ?? '~', opts.user),
      timeoutMs: patience(opts.timeoutMs ?? 60_000),
    }
  }

  /** The command whose first process has this number, if it runs. */
  async running(pid: number): Promise<native.CommandInfo | undefined> {
    const commands = await this.machine.commands.list()
    return commands.find((command) => command.pid === pid && command.exit === null)
  }

  /** One who reads what the command says whose first process has this number. */
  async reader(pid: number): Promise<Reader> {
    const command = await this.running(pid)
    if (command !== undefined) return Reader.following(this.native, command)
    const error = new NotFoundError(`no command runs whose pid is ${pid}; \`commands.list()\` tells which do`)
    error.context = { field: 'pid', value: `${pid}` }
    throw error
  }

  /** Does something with the command whose first process has this number. */
  async with(pid: number, work: (command: native.Process) => Promise<unknown>): Promise<void> {
    const reader = await this.reader(pid)
    try {
      await called(work(reader.native))
    } finally {
      reader.close()
    }
  }

  /** Kills a command and its children. False if there is none. */
  async kill(pid: number): Promise<boolean> {
    const command = await this.running(pid)
    return command !== undefined && this.killed(command.id)
  }

  /** Kills a command by its id. False if it had ended. */
  async killed(command: string): Promise<boolean> {
    try {
      await called(this.native.signal(command, constants.signals.SIGKILL, 'tree'))
      return true
    } catch (thrown) {
      if (thrown instanceof NoneError) return false
      throw thrown
    }
  }
}
