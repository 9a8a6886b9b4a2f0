import type * as native from '../../native/index.js'
import { called } from '../call.js'

/** Events that wait for one who reads slowly, until which the others wait too. */
const MOST = 256

const feeds = new Map<string, Promise<Feed>>()

/**
 * A command that this process follows. A command has one follower, but E2B lets a program
 * hold many handles: they share this one, and each sees all that comes.
 */
class Feed {
  readonly native: native.Process
  readonly readers = new Set<Reader>()
  readonly #key: string
  #over = false
  #error: unknown
  #waiting: Array<() => void> = []
  #passing: Promise<void> | undefined

  constructor(key: string, started: native.Process) {
    this.#key = key
    this.native = started
  }

  /** Whether there is more, once there is. */
  async more(): Promise<boolean> {
    while ([...this.readers].some((reader) => reader.events.length >= MOST)) {
      await new Promise<void>((go) => this.#waiting.push(go))
    }
    if (this.#error !== undefined) throw this.#error
    if (this.#over) return false
    await (this.#passing ??= this.#passOn())
    return true
  }

  /** A reader has taken an event, or reads no more. */
  taken(): void {
    for (const go of this.#waiting.splice(0)) go()
  }

  async #passOn(): Promise<void> {
    try {
      const event = await called(this.native.nextEvent())
      if (!event || event.exit) this.#end()
      if (event) for (const reader of this.readers) reader.events.push(event)
    } catch (thrown) {
      this.#error = thrown
      this.#end()
      throw thrown
    } finally {
      this.#passing = undefined
    }
  }

  #end(): void {
    this.#over = true
    feeds.delete(this.#key)
  }

  /** Where nobody reads it any more, the command is followed no more. */
  left(reader: Reader): void {
    this.readers.delete(reader)
    this.taken()
    if (this.readers.size > 0 || this.#over) return
    this.#end()
    this.native.letGo()
  }
}

/** One of those who read what a command says. */
export class Reader {
  readonly events: native.Event[] = []
  readonly #feed: Feed
  readonly tty: boolean

  private constructor(feed: Feed, tty: boolean) {
    this.#feed = feed
    this.tty = tty
    feed.readers.add(this)
  }

  /** The first of a command that was just started. */
  static of(sandbox: native.Sandbox, started: native.Process, tty: boolean): Reader {
    const key = `${sandbox.id} ${started.id}`
    const feed = new Feed(key, started)
    feeds.set(key, Promise.resolve(feed))
    return new Reader(feed, tty)
  }

  /** One who sees what comes from now on. */
  static async following(sandbox: native.Sandbox, command: native.CommandInfo): Promise<Reader> {
    const key = `${sandbox.id} ${command.id}`
    let feed = feeds.get(key)
    if (feed === undefined) {
      feed = called(sandbox.attach(command.id, true, false)).then((started) => new Feed(key, started))
      feeds.set(key, feed)
      feed.catch(() => feeds.delete(key))
    }
    return new Reader(await feed, command.tty)
  }

  /** The command. */
  get native(): native.Process {
    return this.#feed.native
  }

  /** What comes next; undefined after the end. */
  async next(): Promise<native.Event | undefined> {
    while (this.events.length === 0) {
      const open = this.#feed.readers.has(this)
      if (!open || !(await this.#feed.more())) break
    }
    const event = this.events.shift()
    this.#feed.taken()
    return event
  }

  /** Reads no more. */
  close(): void {
    this.#feed.left(this)
  }
}
