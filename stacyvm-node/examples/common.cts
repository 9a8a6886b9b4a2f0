// The same from CommonJS.
import stacyvm = require('stacyvm')

const sandbox: Promise<stacyvm.Sandbox> = stacyvm.Sandbox.create()
const same: typeof stacyvm.Sandbox = stacyvm.default
export = { sandbox, same }
