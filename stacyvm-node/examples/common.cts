// The same from CommonJS.
import stacyvm = require('stacyvm')

const sandbox: Promise<stacyvm.Sandbox> = stacyvm.Sandbox.create()
const same: typeof stacyvm.Sandbox = stacyvm.default

import e2b = require('stacyvm/e2b')

const sandboxOfE2b: Promise<e2b.Sandbox> = e2b.Sandbox.create({ timeoutMs: 60_000 })
const info: Promise<e2b.SandboxInfo> = e2b.default.getInfo('id')
export = { sandbox, same, sandboxOfE2b, info }
