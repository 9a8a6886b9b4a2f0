// The engines that tests run on, and what they need of them.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Engine } from 'stacyvm'

/** A directory that is gone after the tests of the file. */
export function directory() {
  const made = mkdtempSync(join(tmpdir(), 'stacyvm-node-'))
  after(() => rmSync(made, { recursive: true, force: true }))
  return made
}

/** The state of the engine of `Sandbox.create()` in this file, and its child processes. */
process.env.STACYVM_STATE_DIR ??= directory()
delete process.env.STACYVM_CONFIG
const { STACYVM_TEST_DOCKER_HOST } = process.env
if (STACYVM_TEST_DOCKER_HOST) process.env.DOCKER_HOST = STACYVM_TEST_DOCKER_HOST

const real = () => new Engine({ stateDir: process.env.STACYVM_STATE_DIR })
const kinds = {
  mock: { engine: () => Engine.mock(), image: 'scratch' },
  embedded: { engine: real, image: 'host' },
  docker: { engine: real, image: 'stacyvm-test/busybox', provider: 'docker' },
}

/** For `onEach`: what the providers have in common. */
export const everywhere = ['mock', 'embedded', 'docker']

export const { image: dockerImage } = kinds.docker
/** Why no engine of Docker's is there, if none is. */
export const dockerMissing =
  spawnSync('docker', ['image', 'inspect', dockerImage]).status === 0
    ? undefined
    : `not run: needs a Docker engine with ${dockerImage}: scripts/docker-host.sh start`

/** Why the embedded provider makes no sandbox here, if it makes none. */
export const missing = await (async () => {
  try {
    await (await kinds.embedded.engine().create({ image: 'host' })).kill()
  } catch (error) {
    return `not run: the embedded provider: ${error.message}`
  }
})()
export const embedded = missing === undefined

/** Whether limits and the users of a sandbox are to be had; says so where they are not. */
export function privileged({ name }, test) {
  if (name === 'mock' || process.getuid() === 0) return true
  test.skip('not run: needs root on the host')
  return false
}

/** Tests on each engine and provider, with one sandbox for all of them. */
export function onEach(title, tests, only = ['mock', 'embedded']) {
  const lacking = { embedded: missing, docker: dockerMissing }
  for (const name of only) {
    describe(`${title}, ${name}`, { skip: lacking[name] }, () => {
      const given = { name, ...kinds[name] }
      before(async () => {
        given.engine = kinds[name].engine()
        given.create = (options) => given.engine.create({ image: given.image, provider: given.provider, ...options })
        given.sandbox = await given.create({ lifetime: 'attached' })
      })
      after(async () => {
        await given.sandbox.kill()
        await given.engine.close()
      })
      tests(given, (what, test) => it(what, { timeout: 60_000 }, (context) => test(given, context)))
    })
  }
}

/** Waits until `holds` gives something that is true. */
export async function until(holds, what = 'what was waited for did not come') {
  for (let n = 0; n < 400; n++) {
    const held = await holds()
    if (held) return held
    await sleep(25)
  }
  throw new Error(what)
}

/** The arguments of each process inside that a command started. */
export async function argvs(sandbox) {
  const inside = await sandbox.processes()
  return inside.filter((one) => one.command !== null).map((one) => one.argv.join(' '))
}
