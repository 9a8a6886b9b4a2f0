import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { it } from 'node:test'
import { missing } from './engines.mjs'

it('the program of the README runs, and has ten lines', { skip: missing }, () => {
  const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8')
  const [, program] = readme.match(/```js\n([^]+?)```/)
  assert.ok(program.trim().split('\n').filter(Boolean).length <= 10)
  const cwd = new URL('.', import.meta.url)
  const said = execFileSync(process.execPath, ['--input-type=module', '--eval', program], { cwd })
  assert.equal(said.toString(), '45\n 0\n')
})
