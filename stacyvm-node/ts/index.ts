/**
 * Disposable machines for programs, in their own process.
 *
 * @example
 * const sandbox = await Sandbox.create()
 * const { stdout } = await sandbox.commands.run('echo hello')
 * await sandbox.kill()
 */
export * from './errors.js'
export * from './commands.js'
export * from './engine.js'
export * from './files.js'
export type { LogEntry, LogsOptions } from './logs.js'
export * from './pool.js'
export { Listener } from './ports.js'
export * from './pty.js'
export * from './result.js'
export * from './sandbox.js'
export { Sandbox as default } from './sandbox.js'
export type {
  CodeContext,
  CodeError,
  CodeResult,
  Command,
  CommandInfo,
  Effective,
  Endpoint,
  EngineOptions,
  EntryInfo,
  Execution,
  ExitInfo,
  LeftOut,
  Lost,
  PoolStats,
  ProcessInfo,
  PullInfo,
  Raw,
  SandboxInfo,
  SandboxMetrics,
  SnapshotInfo,
  WatchEvent,
} from '../native/index.js'
