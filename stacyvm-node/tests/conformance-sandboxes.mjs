// Sandboxes of the conformance suite's server.
import { createRequire } from 'node:module'
import { Engine } from 'stacyvm'
import { Commands } from './conformance-commands.mjs'
import { Refused, timeOf } from './conformance-wire.mjs'

const native = createRequire(import.meta.url)('../native/index.js')

// What the provider below can do and the package has calls for. It has none for ids of snapshots that
// the caller mints. The API does not carry `listen`; an owner's connection and images are not served.
const SERVED = [
  'env', 'image_host', 'exec_stdin', 'exec_tty', 'users', 'kill_scope', 'signals', 'processes', 'oom_reported',
  'exec_background', 'reattach_output', 'files', 'file_tar', 'file_watch', 'pause', 'ttl', 'idle_timeout', 'usage', 'isolation',
  'memory_limit', 'cpu_limit', 'pids_limit', 'open_files_limit', 'disk_limit', 'limits_visible', 'network_none',
  'network_full', 'network_allow', 'mount_host', 'mount_tmpfs', 'mount_volume', 'mount_volume_size', 'read_only_root',
  'namespaced_root', 'root_mapped', 'syscall_filter', 'no_new_privileges', 'publish_ports', 'endpoint', 'dial',
]
const UNITS = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }

function milliseconds(asked) {
  if (typeof asked === 'number') return asked * 1000
  const parts = [...asked.matchAll(/(\d+)(ms|[smhd])/g)]
  return parts.reduce((sum, [, number, unit]) => sum + Number(number) * UNITS[unit], 0)
}

const camel = (name) => name.replace(/_(.)/g, (_, letter) => letter.toUpperCase())
const camels = (object) => Object.fromEntries(Object.entries(object).map(([name, value]) => [camel(name), value]))
const asked = (value) => !(value === null || value === false || (typeof value === 'object' && Object.keys(value).length === 0))
const same = (name) => (value) => ({ [name]: value })

/** The options of `create` of each field of a spec. */
const fields = {
  ...Object.fromEntries(['env', 'user', 'network', 'ports', 'privileges', 'profile'].map((name) => [name, same(name)])),
  source: (source) => source,
  workdir: same('cwd'),
  labels: same('metadata'),
  read_only_root: same('readOnlyRoot'),
  provider_options: same('providerOptions'),
  resources: (limits) => camels(Object.fromEntries(Object.entries(limits).filter(([, value]) => value !== null))),
  ttl: (value) => ({ timeoutMs: milliseconds(value) }),
  idle_timeout: (value) => ({ idleTimeoutMs: milliseconds(value) }),
  mounts: (mounts) => ({
    mounts: mounts.map(({ source, ...mount }) => ({
      ...camels(mount),
      source: source.tmpfs ? { tmpfs: camels(source.tmpfs) } : source,
    })),
  }),
}

function optionsOf(spec, secrets) {
  const options = {}
  for (const [name, value] of Object.entries(spec)) {
    if (!asked(value) || (name === 'lifetime' && value === 'detached')) continue
    if (!fields[name]) throw new Refused('unsupported', `${name} is not had here`)
    Object.assign(options, fields[name](value))
  }
  return { ...options, env: { ...options.env, ...secrets } }
}

export async function seen(sandbox) {
  const { id, phase, created, ends, effective } = await sandbox.getInfo()
  const state = phase === 'running' || phase === 'paused' ? phase : 'ended'
  return { id, state, created: timeOf(created), ends: timeOf(ends), effective }
}

/** Sandboxes, each with the commands that clients named. */
export class Rooms {
  #halves
  #engine
  #all = new Map()
  #making = new Map()

  /** Its engine is one: the native half gives what is followed in bytes. */
  static async open(stateDir) {
    const rooms = new Rooms()
    rooms.#halves = new native.Engine({ stateDir })
    rooms.#engine = new Engine(rooms.#halves)
    const sandbox = await rooms.#engine.create({ image: 'host' })
    const claims = await sandbox.capabilities()
    await sandbox.kill()
    rooms.claims = Object.fromEntries(SERVED.map((name) => [name, claims[name]]))
    return rooms
  }

  /** One who makes or ends a sandbox after the other. */
  #alone(name, work) {
    const done = (this.#making.get(name) ?? Promise.resolve()).then(work)
    this.#making.set(name, done.catch(() => {}))
    return done
  }

  async create({ id, spec, secrets = {} }) {
    await this.#alone(id, async () => {
      if (this.#all.has(id)) throw new Refused('conflict', 'the id is taken')
      const sandbox = await this.#engine.create({ ...optionsOf(spec, secrets), id })
      this.#all.set(id, new Commands(sandbox, await this.#halves.get(id)))
    })
    return seen(this.sandbox(id))
  }

  commands(name) {
    const found = this.#all.get(name)
    if (!found) throw new Refused('not_found', `there is no sandbox ${name}`)
    return found
  }

  sandbox(name) {
    return this.commands(name).sandbox
  }

  async page(after, limit) {
    const names = [...this.#all.keys()].filter((name) => name > after).sort().slice(0, limit)
    return { sandboxes: await Promise.all(names.map((name) => seen(this.sandbox(name)))) }
  }

  async setDeadline(name, { ends }) {
    const left = () => ends.seconds * 1000 + ends.nanoseconds / 1_000_000 - Date.now()
    // It was no less than a second when it was asked for.
    await this.sandbox(name).setTimeout(ends === null ? null : Math.max(left(), 1000))
  }

  async usage(name) {
    const { memoryBytes, memoryPeakBytes, cpuUs, processes, diskBytes, oomKills } = await this.sandbox(name).metrics()
    return {
      memory_bytes: memoryBytes, memory_peak_bytes: memoryPeakBytes, cpu_us: cpuUs,
      processes, disk_bytes: diskBytes, oom_kills: oomKills,
    }
  }

  async destroy(name) {
    // After a create of it that is under way.
    await this.#alone(name, async () => {
      const room = this.#all.get(name)
      this.#all.delete(name)
      await room?.sandbox.kill()
    })
  }

  async close() {
    for (const name of this.#all.keys()) await this.destroy(name)
    await this.#engine.close()
  }
}
