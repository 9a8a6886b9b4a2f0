/**
 * E2B's names over stacyvm: `import { Sandbox } from 'e2b'` becomes
 * `import { Sandbox } from 'stacyvm/e2b'`, and so does that of '@e2b/code-interpreter'.
 *
 * What differs from E2B is in docs/migrate-from-e2b.md.
 */
export {
  AuthenticationError,
  CommandExitError,
  FileNotFoundError,
  InvalidArgumentError,
  NotEnoughSpaceError,
  NotFoundError,
  NotSupportedError,
  RateLimitError,
  SandboxError,
  SandboxNotFoundError,
  ServiceBusyError,
  TemplateError,
  TimeoutError,
} from './errors.js'
export { Sandbox, Sandbox as default } from './sandbox.js'
export { ALL_TRAFFIC, FilesystemEventType, FileType } from './types.js'
export type * from './types.js'
export type {
  Context,
  CreateCodeContextOpts,
  Execution,
  ExecutionError,
  Logs,
  MIMEType,
  OutputMessage,
  RawData,
  Result,
  RunCodeLanguage,
  RunCodeOpts,
} from './code.js'
export type { Commands, Pty } from './commands.js'
export type { Filesystem } from './files.js'
export type { CommandHandle } from './handle.js'
export type { SandboxPaginator } from './paginator.js'
export type { WatchHandle } from './watch.js'
