// E2B's errors, which are stacyvm's too: the error of stacyvm is their `cause`.
import { refuse, untilAborted } from '../call.js'
import * as stacy from '../errors.js'
import type { CommandResult, ConnectionOpts } from './types.js'

/** The base of E2B's errors. */
export class SandboxError extends stacy.StacyError {
  /** The status of an answer of E2B's service; there is none here. */
  declare statusCode?: number
}

/** A time passed, or the sandbox ended or does not answer; `code` tells them apart. */
export class TimeoutError extends SandboxError {
  static override readonly code = 'timeout'
}

/** A value makes no sense. */
export class InvalidArgumentError extends SandboxError {
  static override readonly code = 'invalid_argument'
}

/** A disk is full. */
export class NotEnoughSpaceError extends SandboxError {
  static override readonly code = 'no_space'
}

/** No such sandbox, command, user, file. */
export class NotFoundError extends SandboxError {
  static override readonly code = 'not_found'
}

/** No such file or directory. */
export class FileNotFoundError extends NotFoundError {}

/** No such sandbox, or it has ended. */
export class SandboxNotFoundError extends NotFoundError {}

/** A credential is missing or wrong. */
export class AuthenticationError extends stacy.StacyError {
  static override readonly code = 'unauthenticated'
}

/** A template that cannot be used. */
export class TemplateError extends SandboxError {}

/** A quota, a limit or the host's means are used up. */
export class RateLimitError extends SandboxError {
  static override readonly code = 'resource_exhausted'
}

/** Never thrown here: E2B's service has no capacity. */
export class ServiceBusyError extends Error {
  override readonly name = 'ServiceBusyError'
  readonly statusCode = 503
}

/** Of E2B, but not offered here; the message says what to use. (Not a name of E2B.) */
export class NotSupportedError extends SandboxError {
  static override readonly code = 'unsupported'
}

/** A command did not exit with 0. */
export class CommandExitError extends SandboxError implements CommandResult {
  static override readonly code = 'command_failed'
  /** How it ended, and what it said. */
  readonly result: CommandResult

  constructor(result: CommandResult) {
    super(result.error)
    this.result = result
  }

  /** -1 for a command that a signal ended. */
  get exitCode(): number {
    return this.result.exitCode
  }

  /** `exit status 3` or `signal: killed`. */
  get error(): string | undefined {
    return this.result.error
  }

  /** Its standard output. */
  get stdout(): string {
    return this.result.stdout
  }

  /** Its standard error. */
  get stderr(): string {
    return this.result.stderr
  }
}

type Named = typeof SandboxError | typeof AuthenticationError

const names = new Map<string, Named>([
  ['not_found', NotFoundError],
  ['invalid_argument', InvalidArgumentError],
  ['is_directory', InvalidArgumentError],
  ['not_directory', InvalidArgumentError],
  ['no_space', NotEnoughSpaceError],
  ['timeout', TimeoutError],
  ['sandbox_gone', TimeoutError],
  ['unavailable', TimeoutError],
  ['unauthenticated', AuthenticationError],
  ['resource_exhausted', RateLimitError],
  ['unsupported', NotSupportedError],
])

/**
 * The error that E2B has for one of stacyvm; what is none stays as it is. `control` is
 * true of calls that E2B asks its service, for which a sandbox that ended is one that
 * does not exist. `more` is added to what it says. Its stack is that of who called `from`.
 */
export function named(thrown: unknown, control = false, more = '', from: Function = named): unknown {
  if (!(thrown instanceof stacy.StacyError)) return thrown
  if (thrown instanceof SandboxError || thrown instanceof AuthenticationError) return thrown
  const { code, retryable, retryAfterMs, operation, provider, context } = thrown
  let made = names.get(code) ?? SandboxError
  if (made === NotFoundError && 'path' in context) made = FileNotFoundError
  const missing = made === NotFoundError && 'sandbox' in context
  if (control && (code === 'sandbox_gone' || missing)) made = SandboxNotFoundError
  const error = new made(`${thrown.message}${more}`, { cause: thrown })
  Object.assign(error, { code, retryable, retryAfterMs, operation, provider, context })
  Error.captureStackTrace(error, from)
  return error
}

/** How E2B's service is asked. All of it but `signal` is taken and means nothing here. */
const ofService = [
  'apiKey', 'validateApiKey', 'domain', 'apiUrl', 'sandboxUrl', 'debug', 'requestTimeoutMs',
  'retries', 'logger', 'headers', 'proxy', 'apiHeaders', 'signal',
]

/**
 * A call of E2B's: options that nobody knows are refused, its signal is heeded, its
 * errors have E2B's names.
 */
export async function asked<T>(
  opts: object | undefined,
  known: readonly string[],
  work: () => Promise<T>,
  { control = false, kill = async () => {} }: { control?: boolean; kill?: () => Promise<unknown> } = {},
): Promise<T> {
  const { signal } = (opts ?? {}) as ConnectionOpts
  signal?.throwIfAborted()
  try {
    const given = Object.entries(opts ?? {})
    const heeded = (name: string) => ofService.includes(name) || known.includes(name)
    refuse(Object.fromEntries(given.filter(([name]) => !heeded(name))))
    return await untilAborted(signal, kill, work)
  } catch (thrown) {
    // What was killed for the signal may be told before the kill is done.
    signal?.throwIfAborted()
    throw named(thrown, control, '', asked)
  }
}
