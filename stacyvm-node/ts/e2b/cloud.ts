import { NotSupportedError } from './errors.js'

/** What E2B has and is not offered. */
function none(words: string): never {
  throw new NotSupportedError(words)
}

const forks = () => none('sandboxes are not forked; make another one, or `createSnapshot()`')
const updates = () => none('say what may be reached when it is made: `create({ network })`')
const lists = () => none('keep the ids of `createSnapshot()`')
const gateway = () => none('there is no MCP gateway; run a server with `commands.run`')

/** What of a sandbox is of E2B's cloud: each call rejects with what to use. */
export class CloudOnly {
  /** Not offered: a sandbox is killed at its end. */
  static async betaCreate(..._: unknown[]): Promise<never> {
    return none('a sandbox is killed at its timeout; `create()`, and `pause()` before it')
  }

  /** Not offered: make another one. */
  static async fork(..._: unknown[]): Promise<never> {
    return forks()
  }

  /** Not offered: make another one. */
  async fork(..._: unknown[]): Promise<never> {
    return forks()
  }

  /** Not offered: it is said at `create`. */
  static async updateNetwork(..._: unknown[]): Promise<never> {
    return updates()
  }

  /** Not offered: it is said at `create`. */
  async updateNetwork(..._: unknown[]): Promise<never> {
    return updates()
  }

  /** Not offered: keep the ids. */
  static listSnapshots(..._: unknown[]): never {
    return lists()
  }

  /** Not offered: keep the ids. */
  listSnapshots(..._: unknown[]): never {
    return lists()
  }

  /** Not offered: its provider does it. */
  static async deleteSnapshot(..._: unknown[]): Promise<never> {
    return none('remove it with the tools of its provider')
  }

  /** Not offered: use `files.read`. */
  async downloadUrl(..._: unknown[]): Promise<never> {
    return none("there are no URLs of files; `sandbox.files.read(path, { format: 'stream' })`")
  }

  /** Not offered: use `files.write`. */
  async uploadUrl(..._: unknown[]): Promise<never> {
    return none('there are no URLs of files; `sandbox.files.write(path, data)`')
  }

  /** Not offered: make another interpreter. */
  async restartCodeContext(..._: unknown[]): Promise<never> {
    return none('remove the interpreter, and make another: `createCodeContext()`')
  }

  /** Not offered: there is no gateway. */
  getMcpUrl(): never {
    return gateway()
  }

  /** Not offered: there is no gateway. */
  async getMcpToken(): Promise<never> {
    return gateway()
  }

  /** Not offered, and deprecated by E2B. */
  get git(): never {
    return none("run git: `sandbox.commands.run('git ...')`")
  }
}
