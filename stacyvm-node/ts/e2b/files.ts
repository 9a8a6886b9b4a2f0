import { posix } from 'node:path'
import { Readable } from 'node:stream'
import type * as native from '../../native/index.js'
import { NotFoundError as NoneError, StacyError } from '../errors.js'
import type { Data, Files } from '../files.js'
import { InvalidArgumentError, NotSupportedError, asked, named } from './errors.js'
import type { Inside } from './inside.js'
import { patience } from './options.js'
import {
  type EntryInfo,
  type FilesystemEvent,
  FilesystemEventType,
  type FilesystemListOpts,
  type FilesystemReadOpts,
  type FilesystemRequestOpts,
  type FilesystemWriteOpts,
  FileType,
  type WatchOpts,
  type WriteData,
  type WriteEntry,
  type WriteInfo,
} from './types.js'
import { WatchHandle } from './watch.js'

const types = new Map([
  ['file', FileType.FILE],
  ['dir', FileType.DIR],
  ['link', FileType.SYMLINK],
])
const kinds = new Map([
  ['created', FilesystemEventType.CREATE],
  ['modified', FilesystemEventType.WRITE],
  ['removed', FilesystemEventType.REMOVE],
  ['attributes', FilesystemEventType.CHMOD],
])

const OF_WRITE = ['user', 'gzip', 'useOctetStream', 'metadata']
const OF_WATCH = ['user', 'timeoutMs', 'onExit', 'recursive', 'includeEntry', 'allowNetworkMounts']

/** Permission bits as `ls` shows them. */
function permissions(type: string, mode: number): string {
  const bits = [...'rwxrwxrwx'].map((letter, n) => (mode & (0o400 >> n) ? letter : '-'))
  const special = (n: number, bit: number, letter: string) => {
    if (mode & bit) bits[n] = bits[n] === 'x' ? letter : letter.toUpperCase()
  }
  special(2, 0o4000, 's')
  special(5, 0o2000, 's')
  special(8, 0o1000, 't')
  return ({ dir: 'd', link: 'l', file: '-' }[type] ?? '?') + bits.join('')
}

/** A file as E2B describes it. */
function entryOf(entry: native.EntryInfo, path: string): EntryInfo {
  return {
    name: entry.name,
    type: types.get(entry.type),
    path,
    size: entry.size,
    mode: entry.mode,
    permissions: permissions(entry.type, entry.mode),
    owner: entry.owner ?? `${entry.uid}`,
    group: entry.group ?? `${entry.gid}`,
    modifiedTime: entry.modifiedTime,
    symlinkTarget: entry.symlinkTarget ?? undefined,
  }
}

/** What stacyvm writes a file from. */
function dataOf(data: WriteData): Data {
  if (data instanceof ArrayBuffer) return new Uint8Array(data)
  if (data instanceof Blob) return data.stream() as unknown as AsyncIterable<Uint8Array>
  const given: unknown = data
  const inPieces = typeof given === 'object' && given !== null && Symbol.asyncIterator in given
  if (typeof given === 'string' || given instanceof Uint8Array || inPieces) return given as Data
  const error = new InvalidArgumentError(
    `the data of a file is ${given === null ? 'null' : `a value of type ${typeof given}`}, expected ` +
      'a string, ArrayBuffer, Uint8Array, Blob or ReadableStream',
  )
  error.context = { field: 'data' }
  throw error
}

/** The files of a sandbox. Paths that do not begin with `/` begin in the user's home. */
export class Filesystem {
  readonly #inside: Inside

  /** @internal */
  constructor(inside: Inside) {
    this.#inside = inside
  }

  /** A call on one path, with the rights of a user. */
  #on<T>(
    path: string,
    opts: FilesystemRequestOpts | undefined,
    known: readonly string[],
    work: (files: Files, where: string) => Promise<T>,
  ): Promise<T> {
    return asked(opts, known, async () => {
      const { files } = this.#inside.machine
      const user = this.#inside.user(opts?.user)
      const where = await this.#inside.path(path, opts?.user)
      return work(user === undefined ? files : files.withUser(user), where)
    })
  }

  /** Reads a file: text, where what is no UTF-8 is replaced, bytes, a blob or a stream. */
  async read(path: string, opts?: FilesystemReadOpts & { format?: 'text' }): Promise<string>
  async read(path: string, opts?: FilesystemReadOpts & { format: 'bytes' }): Promise<Uint8Array>
  async read(path: string, opts?: FilesystemReadOpts & { format: 'blob' }): Promise<Blob>
  async read(path: string, opts?: FilesystemReadOpts & { format: 'stream' }): Promise<ReadableStream<Uint8Array>>
  async read(
    path: string,
    opts?: FilesystemReadOpts & { format?: 'text' | 'bytes' | 'blob' | 'stream' },
  ): Promise<unknown> {
    const known = ['user', 'gzip', 'streamIdleTimeoutMs', 'format']
    return this.#on(path, opts, known, async (files, where) => {
      const format = opts?.format ?? 'text'
      if (format === 'stream') {
        return Readable.toWeb(renamed(await files.read(where, { format })))
      }
      const data = await files.read(where, { format: 'bytes' })
      if (format === 'text') return new TextDecoder().decode(data)
      if (format === 'blob') return new Blob([Uint8Array.from(data)])
      return new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
    })
  }

  /** Writes a file, or several one after the other, and makes the directories above. */
  async write(path: string, data: WriteData, opts?: FilesystemWriteOpts): Promise<WriteInfo>
  async write(files: WriteEntry[], opts?: FilesystemWriteOpts): Promise<WriteInfo[]>
  async write(
    path: string | WriteEntry[],
    data?: WriteData | FilesystemWriteOpts,
    opts?: FilesystemWriteOpts,
  ): Promise<WriteInfo | WriteInfo[]> {
    if (Array.isArray(path)) return this.writeFiles(path, data as FilesystemWriteOpts | undefined)
    return this.#on(path, opts, OF_WRITE, async (files, where) => {
      if (opts?.metadata && Object.keys(opts.metadata).length > 0) {
        throw new NotSupportedError(
          'metadata of files is not kept; write it to a file beside, or use labels of the sandbox: ' +
            '`Sandbox.create({ metadata })`',
        )
      }
      await files.write(where, dataOf(data as WriteData))
      return { name: posix.basename(where), type: FileType.FILE, path: where }
    })
  }

  /** Writes files, one after the other. */
  async writeFiles(files: WriteEntry[], opts?: FilesystemWriteOpts): Promise<WriteInfo[]> {
    const written: WriteInfo[] = []
    for (const { path, data } of files) written.push(await this.write(path, data, opts))
    return written
  }

  /** Lists a directory, so many levels deep. */
  async list(path: string, opts?: FilesystemListOpts): Promise<EntryInfo[]> {
    const depth = opts?.depth ?? 1
    return this.#on(path, opts, ['user', 'depth'], async (files, where) => {
      if (depth < 1) throw new InvalidArgumentError(`depth is ${depth}, expected at least one`)
      const entries = await files.list(where, { depth })
      const shown = entries.filter((entry) => types.has(entry.type))
      return shown.map((entry) => entryOf(entry, posix.join(where, entry.path)))
    })
  }

  /** Makes a directory and the missing ones above it. False if it was there. */
  async makeDir(path: string, opts?: FilesystemRequestOpts): Promise<boolean> {
    return this.#on(path, opts, ['user'], async (files, where) => {
      if ((await files.exists(where)) && (await files.getInfo(where, { follow: true })).type === 'dir') return false
      await files.makeDir(where)
      return true
    })
  }

  /** Moves a path. */
  async rename(oldPath: string, newPath: string, opts?: FilesystemRequestOpts): Promise<EntryInfo> {
    return this.#on(oldPath, opts, ['user'], async (files, old) => {
      const made = await this.#inside.path(newPath, opts?.user)
      await files.rename(old, made)
      return entryOf(await files.getInfo(made), made)
    })
  }

  /** Removes a file, or a directory with what is in it. One that is not there is success. */
  async remove(path: string, opts?: FilesystemRequestOpts): Promise<void> {
    return this.#on(path, opts, ['user'], async (files, where) => {
      try {
        await files.remove(where)
      } catch (thrown) {
        if (!(thrown instanceof NoneError && 'path' in thrown.context)) throw thrown
      }
    })
  }

  /** Whether there is something at a path. */
  async exists(path: string, opts?: FilesystemRequestOpts): Promise<boolean> {
    return this.#on(path, opts, ['user'], (files, where) => files.exists(where))
  }

  /** Describes a path. */
  async getInfo(path: string, opts?: FilesystemRequestOpts): Promise<EntryInfo> {
    return this.#on(path, opts, ['user'], async (files, where) => entryOf(await files.getInfo(where), where))
  }

  /** Watches a directory for changes. */
  async watchDir(
    path: string,
    onEvent: (event: FilesystemEvent) => unknown,
    opts: WatchOpts = {},
  ): Promise<WatchHandle> {
    return this.#on(path, opts, OF_WATCH, async (files, where) => {
      if ((await files.getInfo(where, { follow: true })).type !== 'dir') {
        throw new InvalidArgumentError(`path is ${where}, expected a directory`)
      }
      const timeoutMs = patience(opts.timeoutMs ?? 60_000)
      const watch = await files.watchDir(where, { recursive: opts.recursive })
      const changes = (event: native.WatchEvent) => changesOf(files, where, event, opts.includeEntry ?? false)
      return new WatchHandle(watch, changes, onEvent, opts.onExit, timeoutMs)
    })
  }
}

/** A stream whose errors have E2B's names. */
function renamed(stream: Readable): Readable {
  const pieces = stream[Symbol.asyncIterator]()
  return new Readable({
    read() {
      pieces.next().then(
        ({ done, value }) => this.push(done ? null : value),
        (error) => this.destroy(named(error) as Error),
      )
    },
    destroy(error, done) {
      stream.destroy()
      done(error)
    },
  })
}

/**
 * A change as E2B tells it. A file that was put in place with its content is created here
 * in one step; E2B tells of the writing too.
 */
async function changesOf(
  files: Files,
  directory: string,
  event: native.WatchEvent,
  include: boolean,
): Promise<FilesystemEvent[]> {
  const { name } = event
  const type = kinds.get(event.type)
  if (type === undefined) return []
  let entry: EntryInfo | undefined
  if (type === FilesystemEventType.CREATE || (include && type !== FilesystemEventType.REMOVE)) {
    const path = posix.join(directory, name)
    try {
      entry = entryOf(await files.getInfo(path), path)
    } catch (thrown) {
      const gone = thrown instanceof NoneError
      if (!gone && (include || !(thrown instanceof StacyError))) throw thrown
    }
  }
  const toldOf = include && entry ? { entry } : {}
  const changes: FilesystemEvent[] = [{ name, type, ...toldOf }]
  if (type === FilesystemEventType.CREATE && entry?.type === FileType.FILE && entry.size > 0) {
    changes.push({ name, type: FilesystemEventType.WRITE, ...toldOf })
  }
  return changes
}
