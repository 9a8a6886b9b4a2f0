import * as native from '../native/index.js'
import * as errors from './errors.js'

/** The class of each code of the library. */
const byCode = new Map(
  Object.values(errors)
    .filter((made) => made !== errors.StacyError && made !== errors.CommandFailedError)
    .map((made) => [made.code, made as typeof errors.StacyError]),
)

/** How napi names what it cannot read. It shows the value, which may be a secret. */
const unread = /^(InvalidArg|[A-Z][a-z]+Expected)$/

/** The error of what the native half rejected with; what is none of it stays as it is. */
function fromNative(thrown: unknown, from: Function): unknown {
  const { message: reason, code: name } = (thrown ?? {}) as { message?: unknown; code?: unknown }
  if (typeof reason !== 'string') return thrown
  if (typeof name === 'string' && unread.test(name)) {
    const [, field = 'an argument'] = / on \w+\.(\w+)$/.exec(reason) ?? []
    const error = invalid(field, 'a value of the type that the call has')
    Error.captureStackTrace(error, from)
    return error
  }
  if (!reason.startsWith('{"code":')) return thrown
  const { code, message, ...facts } = JSON.parse(reason)
  const error = new (byCode.get(code) ?? errors.StacyError)(message)
  Object.assign(error, facts, { code, retryable: facts.retryAfterMs !== null })
  // From where the library was called, not from where it answered.
  Error.captureStackTrace(error, from)
  return error
}

// Arguments are read before there is a promise to reject.
for (const { prototype } of Object.values(native) as Array<{ prototype?: Record<string, unknown> }>) {
  for (const [name, { value }] of Object.entries(Object.getOwnPropertyDescriptors(prototype ?? {}))) {
    if (typeof value !== 'function' || name === 'constructor') continue
    prototype![name] = function (...given: unknown[]) {
      return calledNow(() => value.apply(this, given))
    }
  }
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

/** Options as the native half reads them. What JSON would leave out or empty is refused. */
export const asked = (options: object): string => JSON.stringify(options, told)

function told(this: Record<string, unknown>, name: string): unknown {
  // Before its `toJSON`.
  const value = this[name]
  // JSON would make null of a number that is none, and null is an option left out.
  if (typeof value === 'number' && !Number.isFinite(value)) return String(value)
  if (typeof value === 'function') refuse({ [name]: value })
  if (typeof value === 'bigint' || typeof value === 'symbol') throw invalid(name, 'another type')
  if (Array.isArray(value) || hasNames(value) || typeof value !== 'object') return value
  throw invalid(name, 'an object of names and values')
}

/** A map has no names of its own and would mean nothing, as a date would. */
const hasNames = (value: unknown): value is object | null =>
  value === null || (typeof value === 'object' && !(Symbol.iterator in value) && !('toJSON' in value))

/** The error for an argument that is not as it should be. Its value is not told. */
export function invalid(field: string, expected: string): errors.InvalidArgumentError {
  const remedy = 'see its type'
  const told = `${field} is another thing than expected: ${expected}; ${remedy}`
  const error = new errors.InvalidArgumentError(told)
  error.context = { field, expected, remedy }
  return error
}

/** Refuses options that nobody reads: one that is misspelt would silently do nothing. */
export function refuse(unknown: object): void {
  const name = Object.keys(unknown).find((key) => unknown[key as keyof typeof unknown] !== undefined)
  if (name === undefined) return
  const [expected, remedy] = ['an option that there is', 'leave it out, or look how it is spelt']
  const error = new errors.InvalidArgumentError(`there is no option ${name}; ${remedy}`)
  error.context = { field: name, expected, remedy }
  throw error
}

/** Variables or labels: an object of names and texts. */
export function texts(field: string, given: unknown): Record<string, string> | undefined {
  if (given === undefined || given === null) return undefined
  if (!hasNames(given)) throw invalid(field, 'an object of names and values')
  const [name] = Object.entries(given).find(([, value]) => typeof value !== 'string') ?? []
  if (name !== undefined) throw invalid(`${field}.${name}`, 'a string')
  return { ...given } as Record<string, string>
}
