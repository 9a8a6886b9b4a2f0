import { StringDecoder } from 'node:string_decoder'
import type * as native from '../native/index.js'
import { called } from './call.js'
import type { Chunk } from './commands.js'

/** Which output is read. */
export interface LogsOptions {
  /** Goes on with what comes, until the command, or the sandbox, ends. */
  follow?: boolean
  /** Leaves out what was written before. */
  since?: Date
  /** Ends the reading when it is aborted, and throws its reason. */
  signal?: AbortSignal
}

/** What a command wrote, or how it ended. */
export interface LogEntry extends Chunk {
  /** The command's id. */
  command: string
  exit?: native.ExitInfo
}

/** What is read, as text; characters are never cut in two. */
export async function* entriesOf(
  logs: native.Logs,
  signal: AbortSignal | undefined,
): AsyncGenerator<LogEntry, void, undefined> {
  const close = () => void logs.close()
  signal?.addEventListener('abort', close, { once: true })
  if (signal?.aborted) close()
  const texts = new Map<string, Record<'stdout' | 'stderr', StringDecoder>>()
  function* rest(command: string): Generator<LogEntry, void, undefined> {
    const [stdout, stderr] = [texts.get(command)?.stdout.end(), texts.get(command)?.stderr.end()]
    texts.delete(command)
    if (stdout) yield { command, stdout }
    if (stderr) yield { command, stderr }
  }
  try {
    for (;;) {
      const told = await called(logs.next())
      signal?.throwIfAborted()
      if (!told) break
      const { command, event } = told
      const text = texts.get(command) ?? { stdout: new StringDecoder(), stderr: new StringDecoder() }
      texts.set(command, text)
      const stdout = event.stdout && text.stdout.write(event.stdout)
      const stderr = event.stderr && text.stderr.write(event.stderr)
      if (stdout) yield { command, stdout }
      if (stderr) yield { command, stderr }
      if (event.lost) yield { command, lost: event.lost }
      if (event.exit) {
        yield* rest(command)
        yield { command, exit: event.exit }
      }
    }
    for (const command of [...texts.keys()]) yield* rest(command)
  } finally {
    signal?.removeEventListener('abort', close)
    await logs.close()
  }
}
