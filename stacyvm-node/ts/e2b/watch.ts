import type * as native from '../../native/index.js'
import type { WatchHandle as Watch } from '../files.js'
import { TimeoutError, asked, named } from './errors.js'
import type { FilesystemEvent, WatchOpts } from './types.js'

/** The longest that a timer waits. */
const LONGEST_MS = 2 ** 31 - 1

/** A watch on a directory. */
export class WatchHandle {
  readonly #watch: Watch
  #stopped = false

  /** @internal */
  constructor(
    watch: Watch,
    changes: (event: native.WatchEvent) => Promise<FilesystemEvent[]>,
    onEvent: (event: FilesystemEvent) => unknown,
    onExit: WatchOpts['onExit'],
    timeoutMs: number | undefined,
  ) {
    this.#watch = watch
    void this.#tell(changes, onEvent, timeoutMs).then(async (error) => {
      // Nobody is there to be told what goes wrong in it, as in E2B.
      try {
        await onExit?.(error as Error | undefined)
      } catch {}
    })
  }

  /** Tells of changes until the end, and gives the error that ended it. */
  async #tell(
    changes: (event: native.WatchEvent) => Promise<FilesystemEvent[]>,
    onEvent: (event: FilesystemEvent) => unknown,
    timeoutMs: number | undefined,
  ): Promise<unknown> {
    let error: unknown
    const late = () => {
      error = new TimeoutError('the watch ended at its timeout; `timeoutMs` makes it longer, 0 endless')
      void this.stop().catch(() => {})
    }
    const timer = timeoutMs ? setTimeout(late, Math.min(timeoutMs, LONGEST_MS)) : undefined
    try {
      for await (const event of this.#watch) {
        for (const change of await changes(event)) {
          if (this.#stopped) return error
          await onEvent(change)
        }
      }
      return error
    } catch (thrown) {
      await this.stop().catch(() => {})
      return error ?? named(thrown)
    } finally {
      clearTimeout(timer)
    }
  }

  /** Ends the watch. */
  async stop(): Promise<void> {
    this.#stopped = true
    await asked(undefined, [], () => this.#watch.stop())
  }
}
