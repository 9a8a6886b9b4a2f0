import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { describe, it } from 'node:test'
import * as stacyvm from 'stacyvm'

const require = createRequire(import.meta.url)
const native = require('../native/index.js')
const { InvalidArgumentError, Engine, StacyError } = stacyvm

const classes = Object.values(stacyvm).filter(
  (made) => typeof made === 'function' && made.prototype instanceof StacyError,
)
const ofLibrary = classes.filter((made) => made !== stacyvm.CommandFailedError)

describe('errors', () => {
  it('have one class for each code of the library', () => {
    assert.deepEqual(ofLibrary.map((made) => made.code).sort(), native.errorCodes().sort())
  })

  it('have classes that are named like their codes', () => {
    for (const made of classes) {
      const camel = made.code.replace(/(?:^|_)(.)/g, (_, letter) => letter.toUpperCase())
      assert.equal(made.name, `${camel}Error`)
      const error = new made('told', {})
      assert.equal(error.name, made.name)
      assert.equal(error.code, made.code)
      assert.equal(error.message, 'told')
      assert.deepEqual(error.context, {})
    }
  })

  it('tell what, where and why', async () => {
    const engine = Engine.mock()
    await assert.rejects(engine.connect('nonesuch'), (error) => {
      assert.ok(error instanceof stacyvm.NotFoundError && error instanceof StacyError && error instanceof Error)
      const { code, retryable, retryAfterMs, operation, provider, context } = error
      assert.deepEqual(
        { code, retryable, retryAfterMs, operation, provider, context },
        { code: 'not_found', retryable: false, retryAfterMs: null, operation: 'get', provider: null, context: { sandbox: 'nonesuch' } },
      )
      return true
    })
    const sandbox = await engine.create({ image: 'scratch' })
    await assert.rejects(sandbox.pty.create(), { name: 'UnsupportedError', provider: 'mock' })
    await sandbox.kill()
    await assert.rejects(sandbox.commands.run('true'), { name: 'NotFoundError', operation: 'exec' })
  })

  it('have the stack of the caller', async () => {
    async function theCaller() {
      await Engine.mock().connect('nonesuch')
    }
    await assert.rejects(theCaller(), (error) => {
      assert.match(error.stack, /^NotFoundError: /)
      assert.match(error.stack, /at async theCaller \(.*errors\.test\.mjs/)
      assert.doesNotMatch(error.stack, /at (async )?called|fromNative/)
      return true
    })
  })

  it('of wrong types are ours and show no value', async () => {
    const engine = Engine.mock()
    const sandbox = await engine.create({ image: 'scratch' })
    const secret = { apiKey: 'hunter2' }
    const map = new Map([['TOKEN', 'hunter2']])
    for (const [field, work] of [
      ['an argument', () => engine.connect(5)],
      ['an argument', () => sandbox.runCode(secret)],
      ['cwd', () => sandbox.commands.run('true', { cwd: secret })],
      ['timeoutMs', () => sandbox.commands.run('true', { timeoutMs: 'hunter2' })],
      ['env', () => sandbox.commands.run('true', { env: map })],
      ['env', () => engine.create({ image: 'scratch', env: map })],
      ['metadata', () => engine.list({ metadata: map }).next()],
      ['created', () => engine.create({ image: 'scratch', metadata: { created: new Date() } })],
      ['onPul', () => engine.create({ image: 'scratch', onPul() {} })],
      ['data', () => sandbox.files.write('/workspace/x', null)],
      ['mode', () => sandbox.files.write('/workspace/x', 'x', { mode: Number.NaN })],
      ['depth', () => sandbox.files.list('/', { depth: -1 })],
      ['dept', () => sandbox.files.list('/', { dept: 1 })],
      ['maxOutput', () => sandbox.commands.run('echo x', { maxOutput: Infinity })],
      ['port', () => sandbox.dial(2 ** 32 + 80)],
      ['port', () => sandbox.listen(80.7)],
      ['rows', () => sandbox.pty.create({ rows: -1 })],
      ['signal', () => sandbox.commands.sendSignal('x', 2 ** 32 + 9)],
    ]) {
      await assert.rejects(work, (error) => {
        assert.ok(error instanceof InvalidArgumentError, `${field}: ${error}`)
        assert.equal(error.context.field, field)
        assert.ok(!`${error.message} ${JSON.stringify(error.context)}`.includes('hunter2'))
        return true
      })
    }
    await sandbox.commands.run('true', { env: process.env })
  })
})

describe('the parts that other lists are compared with', () => {
  const python = (file) => readFileSync(new URL(`../../stacyvm-py/${file}`, import.meta.url), 'utf8')
  const camel = (name) => name.replace(/_(.)/g, (_, letter) => letter.toUpperCase())

  it('create has the options of Python, with milliseconds', () => {
    const source = python('src/options.rs').match(/\noptions! \{\n([^}]+)\}/)[1]
    const names = [...source.matchAll(/^ {4}(\w+):/gm)].map(([, name]) => camel(name))
    const inMilliseconds = names.map((name) => (/timeout$/i.test(name) ? `${name}Ms` : name))
    assert.deepEqual(native.createOptions().sort(), inMilliseconds.sort())
  })

  it('create declares the options that it reads', () => {
    const declared = readFileSync(new URL('../native/index.d.ts', import.meta.url), 'utf8')
    const [, body] = declared.match(/export interface CreateOptions \{\n([^]+?)\n\}/)
    const names = [...body.matchAll(/^ {2}(\w+)\?:/gm)].map(([, name]) => name)
    assert.deepEqual(names, native.createOptions())
  })

  it('what the native half tells is exported', () => {
    const declared = readFileSync(new URL('../native/index.d.ts', import.meta.url), 'utf8')
    const told = [...declared.matchAll(/^export (?:interface|type) (\w+)/gm)].map(([, name]) => name)
    const index = readFileSync(new URL('../ts/index.ts', import.meta.url), 'utf8')
    const exported = [...index.match(/export type \{([^}]+)\} from '..\/native/)[1].matchAll(/\w+/g)].map(([name]) => name)
    const kept = ['AttributesToSet', 'CodeOutput', 'CreateEvent', 'Event', 'FileOfClaim', 'HowToRun', 'HowToRunCode', 'LogEvent', 'Output', 'WhichLogs']
    // They have more in JavaScript.
    const extended = ['ClaimOptions', 'CreateOptions']
    assert.deepEqual([...exported, ...kept, ...extended].sort(), told.sort())
  })

  it('classes have the methods of Python', () => {
    const parts = ['_async', '_async_files', '_async_ports']
    const source = parts.map((part) => python(`python/stacyvm/${part}.py`)).join('\n\n')
    let classes = 0
    // A `Readable` and a `Duplex` of Node's own here.
    const ofNode = ['Archive', 'Connection']
    for (const [, name, body] of source.matchAll(/^class Async(\w+):\n([^]+?)(?=^\S|(?![^]))/gm)) {
      const names = [...body.matchAll(/^ {4}(?:async )?def ([a-z]\w*)/gm)].map(([, method]) => camel(method))
      if (ofNode.includes(name)) continue
      const made = stacyvm[name]
      classes += 1
      const ofClass = Object.getOwnPropertyNames(made).filter((method) => !['length', 'name', 'prototype'].includes(method))
      const ofObjects = Object.getOwnPropertyNames(made.prototype).filter((method) => method !== 'constructor')
      const mine = [...ofClass, ...ofObjects]
      assert.deepEqual([...new Set(mine)].sort(), [...new Set(names)].sort(), name)
    }
    assert.equal(classes, 10)
  })

  it('ESM and CommonJS give the same classes', () => {
    const common = require('stacyvm')
    for (const name of Object.keys(common)) {
      if (name !== '__esModule') assert.equal(stacyvm[name], common[name], name)
    }
    assert.equal(stacyvm.default, stacyvm.Sandbox)
    assert.equal(Object.keys(stacyvm).length, new Set([...Object.keys(common), ...Object.keys(stacyvm)]).size)
  })
})
