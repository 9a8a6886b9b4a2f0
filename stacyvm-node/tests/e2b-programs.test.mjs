// Programs of E2B's documentation, nearly word for word: the import is another one, waits
// are shorter, and paths are such that the user may write. Each says what it prints, as a
// pattern. They are compiled as strict TypeScript before.
import assert from 'node:assert/strict'
import { execFile, execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, before, beforeEach, describe, it } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { Sandbox } from 'stacyvm/e2b'
import { directory, missing } from './engines.mjs'

const run = promisify(execFile)
const path = (name) => fileURLToPath(new URL(name, import.meta.url))
const programs = readdirSync(path('e2b_programs'))
  .filter((name) => name.endsWith('.mts'))
  .map((name) => name.slice(0, -'.mts'.length))

const nothingIsLeft = async () => {
  const paginator = Sandbox.list()
  while (paginator.hasNext) for (const info of await paginator.nextItems()) await Sandbox.kill(info.sandboxId)
}

/** The local files that the programs speak of. */
const locals = {
  'local/path': 'local content\n',
  'local/dir/file1.txt': 'File 1 contents...\n',
  'local/dir/file2.txt': 'File 2 contents...\n',
}

it('the migration page names each program', () => {
  const page = readFileSync(path('../../docs/migrate-from-e2b.md'), 'utf8')
  const named = [...page.matchAll(/\| runs: `([\w-]+)\.mts` \|/g)].map(([, name]) => name)
  assert.deepEqual(named.sort(), programs.sort())
  assert.ok(named.length >= 25)
})

describe('a documented program runs', { skip: missing }, () => {
  const cwd = directory()
  before(() => {
    mkdirSync(join(cwd, 'local/dir'), { recursive: true })
    const tsc = path('../node_modules/.bin/tsc')
    execFileSync(tsc, ['-p', path('e2b_programs')], { stdio: ['ignore', 'inherit', 'inherit'] })
  })
  beforeEach(() => {
    for (const [name, text] of Object.entries(locals)) writeFileSync(join(cwd, name), text)
  })
  afterEach(nothingIsLeft)

  for (const name of programs) {
    it(name, { timeout: 60_000 }, async () => {
      const [, prints] = readFileSync(path(`e2b_programs/${name}.mts`), 'utf8').match(/^\/\/ prints: (.+)$/m)
      const { stdout } = await run(process.execPath, [path(`e2b_programs/built/${name}.mjs`)], { cwd, timeout: 50_000 })
      assert.match(stdout, new RegExp(prints, 's'))
    })
  }
})
