import * as errors from './errors.js'

/** The class of each code of the library. */
const byCode = new Map(
  Object.values(errors)
    .filter((made) => made !== errors.StacyError && made !== errors.CommandFailedError)
    .map((made) => [made.code, made as typeof errors.StacyError]),
)

/** The error of what the native half rejected with; what is none of it stays as it is. */
function fromNative(thrown: unknown, from: Function): unknown {
  const reason = (thrown as Error | undefined)?.message
  if (typeof reason !== 'string' || !reason.startsWith('{"code":')) return thrown
  const { code, message, ...facts } = JSON.parse(reason)
  const error = new (byCode.get(code) ?? errors.StacyError)(message)
  Object.assign(error, facts, { code, retryable: facts.retryAfterMs !== null })
  // From where the library was called, not from where it answered.
  Error.captureStackTrace(error, from)
  return error
}

/** The result of a call of the native half. */
export async function called<T>(work: Promise<T>): Promise<T> {
  try {
    return await work
  } catch (thrown) {
    throw fromNative(thrown, called)
  }
}

/** The result of a call of the native half for which the thread waits. */
export function calledNow<T>(work: () => T): T {
  try {
    return work()
  } catch (thrown) {
    throw fromNative(thrown, calledNow)
  }
}

/**
 * The result of `work`, unless the signal is aborted before: then everything is killed,
 * and the signal's reason is thrown.
 */
export async function untilAborted<T>(
  signal: AbortSignal | undefined,
  kill: () => Promise<unknown>,
  work: () => Promise<T>,
): Promise<T> {
  if (signal === undefined) return work()
  let abort!: () => void
  const aborted = new Promise<never>((_, reject) => {
    // One that cannot be killed is given up all the same.
    abort = () => void kill().then(() => reject(signal.reason), () => reject(signal.reason))
  })
  signal.addEventListener('abort', abort, { once: true })
  if (signal.aborted) abort()
  try {
    const done = await Promise.race([work(), aborted])
    signal.throwIfAborted()
    return done
  } catch (thrown) {
    // What was killed may say so first.
    signal.throwIfAborted()
    throw thrown
  } finally {
    signal.removeEventListener('abort', abort)
  }
}

/** Options as the native half reads them. */
export const asked = (options: object): string => JSON.stringify(options, numbers)

/** JSON would make null of a number that is none, and null is an option left out. */
const numbers = (_: string, value: unknown): unknown =>
  typeof value === 'number' && !Number.isFinite(value) ? String(value) : value

/** The error for an argument that is not as it should be. Its value is not told. */
export function invalid(field: string, expected: string): errors.InvalidArgumentError {
  const error = new errors.InvalidArgumentError(`${field} is another thing than expected: ${expected}`)
  error.context = { field, expected }
  return error
}

/** Refuses options that nobody reads: one that is misspelt would silently do nothing. */
export function refuse(unknown: object): void {
  const name = Object.keys(unknown).find((key) => unknown[key as keyof typeof unknown] !== undefined)
  if (name === undefined) return
  const error = new errors.InvalidArgumentError(`there is no option ${name}`)
  error.context = { field: name }
  throw error
}

/** Refuses what is no object of names and values: a map has none of its own, and would mean nothing. */
export function variables(env: unknown): Record<string, string> | undefined {
  if (env === undefined || env === null) return undefined
  if (typeof env === 'object' && [Object.prototype, null].includes(Object.getPrototypeOf(env))) {
    const [name] = Object.entries(env).find(([, value]) => typeof value !== 'string') ?? []
    if (name === undefined) return env as Record<string, string>
    throw invalid(`env.${name}`, 'a string')
  }
  throw invalid('env', 'an object of names and values')
}
