import { EventEmitter } from 'node:events'
import { Readable } from 'node:stream'
import type * as native from '../native/index.js'
import { called, invalid, refuse } from './call.js'

/** A path inside: text, or bytes where it is no text. */
export type Path = native.Raw

/** What a file is written from: text, bytes, a stream, or anything that gives pieces. */
export type Data = native.Raw | AsyncIterable<native.Raw> | Iterable<native.Raw>

/** The part of a file that is read as bytes. */
export interface Part {
  offset?: number
  length?: number
}

/** The files of a sandbox, with the rights of its default user or of another one. */
export class Files {
  readonly #sandbox: native.Sandbox
  readonly #native: native.Files

  /** @internal */
  constructor(sandbox: native.Sandbox, user?: string) {
    this.#sandbox = sandbox
    this.#native = sandbox.files(user)
  }

  /** The same files with the rights of this user. */
  withUser(user: string): Files {
    return new Files(this.#sandbox, user)
  }

  /** Reads a file: UTF-8 text, bytes, or a stream of bytes. Of bytes a part can be had:
   * from `offset` on, `length` of them at most. */
  async read(path: Path, options?: { format?: 'text' }): Promise<string>
  async read(path: Path, options: { format: 'bytes' } & Part): Promise<Buffer>
  async read(path: Path, options: { format: 'stream' } & Part): Promise<Readable>
  async read(
    path: Path,
    options: { format?: 'text' | 'bytes' | 'stream' } & Part = {},
  ): Promise<string | Buffer | Readable> {
    const { format = 'text', offset, length, ...unknown } = options
    refuse(format === 'text' ? { offset, length, ...unknown } : unknown)
    if (format === 'bytes') return called(this.#native.read(path, offset ?? 0, length))
    if (format === 'text') return called(this.#native.readText(path))
    return new Pieces(await called(this.#native.open(path, offset ?? 0, length)))
  }

  /**
   * Writes a file in one step, and the directories above it where they are missing:
   * readers see the old file or the new one.
   */
  async write(path: Path, data: Data, options: { mode?: number } = {}): Promise<native.EntryInfo> {
    const { mode, ...unknown } = options
    refuse(unknown)
    if (typeof data === 'string' || data instanceof Uint8Array) {
      return called(this.#native.write(path, data, mode))
    }
    if (!givesPieces(data)) throw invalid('data', 'text, bytes, or what gives bytes piece by piece')
    const written = await writtenTo(() => this.#native.create(path, mode), data)
    return written as native.EntryInfo
  }

  /** Adds to the end of a file, or makes it. */
  async append(path: Path, data: native.Raw): Promise<native.EntryInfo> {
    return called(this.#native.append(path, data))
  }

  /** Lists a directory in the order of names, so many levels deep. */
  async list(path: Path, options: { depth?: number } = {}): Promise<native.EntryInfo[]> {
    const { depth = 1, ...unknown } = options
    refuse(unknown)
    return called(this.#native.entries(path, depth))
  }

  /** Finds paths by an absolute shell pattern (`*`, `?`, `[..]`, `**`). */
  async glob(pattern: Path): Promise<native.EntryInfo[]> {
    return called(this.#native.glob(pattern))
  }

  /** Whether there is something at a path. */
  async exists(path: Path): Promise<boolean> {
    return called(this.#native.exists(path))
  }

  /** Describes a path; a symbolic link itself unless it is to be followed. */
  async getInfo(path: Path, options: { follow?: boolean } = {}): Promise<native.EntryInfo> {
    const { follow = false, ...unknown } = options
    refuse(unknown)
    return called(this.#native.info(path, follow))
  }

  /** Makes a directory and the missing ones above it. One that is there is success. */
  async makeDir(path: Path): Promise<void> {
    await called(this.#native.makeDir(path))
  }

  /** Moves a path and replaces a file there. */
  async rename(oldPath: Path, newPath: Path): Promise<void> {
    await called(this.#native.rename(oldPath, newPath))
  }

  /** Removes a file, or a directory with what is in it. */
  async remove(path: Path): Promise<void> {
    await called(this.#native.remove(path))
  }

  /** Sets permission bits, of everything below as well if `recursive`. */
  async chmod(path: Path, mode: number, options: { recursive?: boolean } = {}): Promise<void> {
    const { recursive = false, ...unknown } = options
    refuse(unknown)
    await called(this.#native.setAttributes(path, { mode }, recursive))
  }

  /** Sets owner and group, by name or number, of everything below as well if `recursive`. */
  async chown(
    path: Path,
    owner?: string | null,
    group?: string | null,
    options: { recursive?: boolean } = {},
  ): Promise<void> {
    const { recursive = false, ...unknown } = options
    refuse(unknown)
    await called(this.#native.setAttributes(path, { owner: owner ?? undefined, group: group ?? undefined }, recursive))
  }

  /** Sets when a path was last changed, of everything below as well if `recursive`. A symbolic
   * link is followed; one that is met below is itself meant. */
  async setModifiedTime(path: Path, time: Date, options: { recursive?: boolean } = {}): Promise<void> {
    const { recursive = false, ...unknown } = options
    refuse(unknown)
    if (!(time instanceof Date)) throw invalid('time', 'a Date')
    await called(this.#native.setAttributes(path, { modified: time.getTime() }, recursive))
  }

  /** Makes a symbolic link at `path` that says `target`. */
  async symlink(target: Path, path: Path): Promise<void> {
    await called(this.#native.symlink(target, path))
  }

  /** Reports changes of a directory. Every change after the return is seen. */
  async watchDir(path: Path, options: { recursive?: boolean } = {}): Promise<WatchHandle> {
    const { recursive = false, ...unknown } = options
    refuse(unknown)
    return new WatchHandle(await called(this.#native.watch(path, recursive)))
  }

  /**
   * Copies a file or directory of the host into the sandbox, as `docker cp` does. Gives
   * the sockets and devices that are left out, by their names in the directory.
   */
  async upload(local: string, path: Path): Promise<native.LeftOut> {
    return called(this.#native.upload(local, path))
  }

  /** Copies a file or directory of the sandbox to the host. Gives what is left out, as `upload`
   * does. */
  async download(path: Path, local: string): Promise<native.LeftOut> {
    return called(this.#native.download(path, local))
  }

  /**
   * Sends a file or directory as a tar stream: under its own name, or only what is in the
   * directory with `contents`. A symbolic link given as `path` is followed with `follow`.
   */
  async exportTar(path: Path, options: { contents?: boolean; follow?: boolean } = {}): Promise<Archive> {
    const { contents = false, follow = false, ...unknown } = options
    refuse(unknown)
    return new Archive(await called(this.#native.exportTar(path, contents, follow)))
  }

  /**
   * Unpacks a tar stream below a directory, which is made if it is missing unless `parents`
   * is false. Its files belong to the user, or with `keepOwner` to whom the archive names,
   * which only root may have. Set-id bits are not kept. Where it fails, the files that were
   * unpacked by then stay, each of them whole.
   */
  async importTar(
    path: Path,
    data: Exclude<Data, string>,
    options: { parents?: boolean; keepOwner?: boolean } = {},
  ): Promise<void> {
    const { parents = true, keepOwner = false, ...unknown } = options
    refuse(unknown)
    const bytes = data instanceof Uint8Array
    if (!bytes && !givesPieces(data)) throw invalid('data', 'bytes, or what gives bytes piece by piece')
    await writtenTo(() => this.#native.importTar(path, parents, keepOwner), bytes ? [data] : data)
  }
}

const givesPieces = (data: unknown): data is AsyncIterable<native.Raw> | Iterable<native.Raw> =>
  typeof data === 'object' && data !== null && (Symbol.asyncIterator in data || Symbol.iterator in data)

/** Writes all of it. Where it breaks off, the old file stays. */
async function writtenTo(
  open: () => Promise<native.Writer>,
  data: AsyncIterable<native.Raw> | Iterable<native.Raw>,
): Promise<native.EntryInfo | null | undefined> {
  // A stream that fails before it is read would end the program; read, it says so again.
  if (data instanceof EventEmitter) data.on('error', () => {})
  const writer = await called(open())
  try {
    for await (const piece of data) if (!(await called(writer.write(piece)))) break
  } catch (thrown) {
    await called(writer.abandon())
    throw thrown
  }
  return called(writer.finish())
}

/** What is read as a stream. Destroying it lets go of the file. */
class Pieces extends Readable {
  readonly #reader: native.Reader

  constructor(reader: native.Reader) {
    super({
      read() {
        called(reader.next()).then(
          (piece) => this.push(piece),
          (error) => this.destroy(error),
        )
      },
      destroy(error, done) {
        reader.close().then(() => done(error), done)
      },
    })
    this.#reader = reader
  }

  /** @internal */
  protected get reader(): native.Reader {
    return this.#reader
  }
}

/**
 * A file or directory of a sandbox as a tar stream. Destroying it lets go of the rest: each
 * sandbox sends 40 at once.
 */
export class Archive extends Pieces {
  /** Sockets and devices that it does not hold, by their names in it: all of them once it was
   * read to its end. */
  get leftOut(): native.LeftOut {
    return this.reader.leftOut()
  }
}

/** A watch on a directory. Iterating gives changes as they come, until it is stopped. */
export class WatchHandle {
  readonly #native: native.Watch

  /** @internal */
  constructor(watch: native.Watch) {
    this.#native = watch
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<native.WatchEvent, void, undefined> {
    for (;;) {
      const event = await called(this.#native.next())
      if (!event) return
      yield event
    }
  }

  /** The changes that came since the last call. */
  async getNewEvents(): Promise<native.WatchEvent[]> {
    return called(this.#native.take())
  }

  /** Ends the watch, and a loop that waits for its next change. */
  async stop(): Promise<void> {
    await called(this.#native.stop())
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
  }
}
