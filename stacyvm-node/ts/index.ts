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
  CreateOptions,
  Effective,
  EngineOptions,
  EntryInfo,
  Execution,
  ExitInfo,
  Lost,
  ProcessInfo,
  Raw,
  SandboxInfo,
  SandboxMetrics,
  SnapshotInfo,
  WatchEvent,
} from '../native/index.js'
