// E2B's options as stacyvm's, and stacyvm's answers as E2B's.
import { availableParallelism } from 'node:os'
import type {
  CreateOptions,
  SandboxInfo as Info,
  SandboxMetrics as Usage,
} from '../../native/index.js'
import { invalid } from '../call.js'
import { UnsupportedError } from '../errors.js'
import { NotSupportedError, named } from './errors.js'
import {
  ALL_TRAFFIC,
  type SandboxInfo,
  type SandboxListOpts,
  type SandboxMetrics,
  type SandboxNetworkOpts,
  type SandboxOpts,
  type SandboxState,
} from './types.js'

/** Milliseconds that a sandbox lives. */
export const TIMEOUT_MS = 300_000
/** How the id of a snapshot begins that `create` takes in the place of a template. */
export const SNAPSHOT = 'snapshot:'
/** E2B's own templates: here the image that is configured. */
const bases = ['base', 'code-interpreter-v1']
const forEver = new Date(8.64e15)

const ofStacy = [
  'image', 'provider', 'runtime', 'memoryMib', 'cpus', 'pids', 'diskMib', 'ports', 'mounts', 'lifetime',
  'idempotencyKey',
] as const

const unsupported: Record<string, string> = {
  mcp: 'run an MCP server with `commands.run`',
  iam: 'give credentials with `envs`',
  volumeMounts: 'mount what the host has: `mounts: [{ target, source: { host } }]`',
}

/** The options of `create`. */
export const OF_CREATE = [
  'template', 'metadata', 'envs', 'timeoutMs', 'secure', 'allowInternetAccess', 'network', 'lifecycle',
  ...ofStacy, ...Object.keys(unsupported),
]

/** Milliseconds from now. */
export function milliseconds(timeoutMs: number): number {
  if (typeof timeoutMs !== 'number' || !(timeoutMs >= 0)) throw invalid('timeoutMs', 'milliseconds, 0 or more')
  return timeoutMs
}

/** Milliseconds that something may take: 0 is endless. */
export const patience = (timeoutMs: number) => milliseconds(timeoutMs) || undefined

/** What stacyvm's `create` is asked. */
export function createOptions(template: string, opts: SandboxOpts): CreateOptions {
  for (const [name, words] of Object.entries(unsupported)) {
    if (opts[name as keyof SandboxOpts] != null) throw new NotSupportedError(`\`${name}\` is of E2B's cloud; ${words}`)
  }
  const { onTimeout = 'kill', autoResume } = opts.lifecycle ?? {}
  if (autoResume || (typeof onTimeout === 'string' ? onTimeout : onTimeout.action) !== 'kill') {
    throw new NotSupportedError('a sandbox is killed at its timeout; `pause()` it before, which removes the end')
  }
  const options: CreateOptions = Object.fromEntries(ofStacy.map((name) => [name, opts[name]]))
  if (template.startsWith(SNAPSHOT)) options.snapshot = template.slice(SNAPSHOT.length)
  else if (!bases.includes(template)) options.template = template
  options.timeoutMs = opts.timeoutMs ?? TIMEOUT_MS
  options.env = { E2B_SANDBOX: 'true', E2B_TEMPLATE_ID: template, ...opts.envs }
  options.metadata = opts.metadata
  options.network = reachable(opts.allowInternetAccess, opts.network)
  return options
}

/** What a sandbox may reach; undefined where nothing is said of it. */
function reachable(allowed: boolean | undefined, network: SandboxNetworkOpts = {}): CreateOptions['network'] {
  const { allowOut, denyOut, ...others } = network
  const other = Object.entries(others).find(([, value]) => value !== undefined)
  if (other !== undefined) throw new NotSupportedError(`\`network.${other[0]}\` is of E2B's cloud; leave it out`)
  const [allow, deny] = [selected(allowOut), selected(denyOut)]
  if (allowed === false || deny.includes(ALL_TRAFFIC)) return allow.length > 0 ? { allow } : 'none'
  if (deny.length > 0) {
    throw new NotSupportedError(
      '`denyOut` of single addresses is not offered; deny ALL_TRAFFIC, and name in `allowOut` what may be reached',
    )
  }
  return allow.length > 0 || allowed ? 'full' : undefined
}

function selected(selector: SandboxNetworkOpts['allowOut'] = []): string[] {
  return typeof selector === 'function' ? selector({ allTraffic: ALL_TRAFFIC, rules: new Map<string, never>() }) : selector
}

/** A create that cannot be, with what to use where it was of a template. */
export function hinted(thrown: unknown): unknown {
  if (!(thrown instanceof UnsupportedError && thrown.context.need === 'template')) return thrown
  return named(thrown, true, '. E2B builds templates in its cloud; name an image: `Sandbox.create({ image })`')
}

/** Where a sandbox stands; undefined for one that E2B does not show. */
export function stateOf({ phase }: Info): SandboxState | undefined {
  return phase === 'running' || phase === 'paused' ? phase : undefined
}

/** A sandbox as E2B describes it. */
export function infoOf(info: Info, state: SandboxState): SandboxInfo {
  return {
    sandboxId: info.id,
    templateId: info.source,
    name: info.source,
    metadata: info.metadata,
    startedAt: info.created,
    endAt: info.ends ?? forEver,
    state,
    cpuCount: cpus(info),
    memoryMB: info.memoryMib ?? 0,
    envdVersion: 'stacyvm',
    lifecycle: { onTimeout: 'kill', autoResume: false },
    volumeMounts: [],
  }
}

/** Milliseconds to the end of a sandbox; null where it has none. */
export function remaining(info: Info): number | null {
  return info.ends && Math.max(info.ends.getTime() - Date.now(), 1000)
}

function cpus(info: Info): number {
  return info.cpus ? Math.max(1, Math.round(info.cpus)) : availableParallelism()
}

/** What a sandbox uses, as E2B tells it. */
export function metricsOf(info: Info, usage: Usage): SandboxMetrics {
  const now = new Date()
  const lived = Math.max(now.getTime() - info.created.getTime(), 1)
  const used = (usage.cpuUs ?? 0) / 10 / lived / cpus(info)
  return {
    timestamp: now,
    cpuUsedPct: Math.round(used * 100) / 100,
    cpuCount: cpus(info),
    memUsed: usage.memoryBytes ?? 0,
    memTotal: (info.memoryMib ?? 0) * 2 ** 20,
    memCache: 0,
    diskUsed: usage.diskBytes ?? 0,
    diskTotal: (info.diskMib ?? 0) * 2 ** 20,
  }
}

/** Whether a sandbox is among those that are asked for. */
export function wanted(query: SandboxListOpts['query'], info: Info): boolean {
  const state = stateOf(info)
  if (state === undefined) return false
  if (query?.state && query.state.length > 0 && !query.state.includes(state)) return false
  if (query?.startedAfter && info.created < query.startedAfter) return false
  return !query?.template || query.template === info.source
}
