import type * as native from '../native/index.js'

/** The native half of each sandbox, for `stacyvm/e2b`. */
export const halves = new WeakMap<object, native.Sandbox>()
