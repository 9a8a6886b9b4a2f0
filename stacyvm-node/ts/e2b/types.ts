// What E2B's calls take and give.
import type { CreateOptions } from '../../native/index.js'

/** How E2B's service is asked. All of it but `signal` is taken and means nothing here. */
export interface ConnectionOpts {
  apiKey?: string
  validateApiKey?: boolean
  domain?: string
  apiUrl?: string
  sandboxUrl?: string
  debug?: boolean
  requestTimeoutMs?: number
  retries?: number
  logger?: Logger
  headers?: Record<string, string>
  proxy?: string
  apiHeaders?: Record<string, string>
  /** Rejects the call when it is aborted; a command that it waits for is killed. */
  signal?: AbortSignal
}

/** Taken, and told nothing. */
export interface Logger {
  debug?: (...args: any[]) => void
  info?: (...args: any[]) => void
  warn?: (...args: any[]) => void
  error?: (...args: any[]) => void
}

export type SandboxApiOpts = ConnectionOpts
export type ConnectionConfigOpts = ConnectionOpts
export type Username = string
export type Stdout = string
export type Stderr = string
export type PtyOutput = Uint8Array
/** By the time of creation. */
export type SandboxListOrder = 'asc' | 'desc'
export type SandboxState = 'running' | 'paused'
export type SandboxOnResume = 'restore' | 'reboot'

/** Every address. */
export const ALL_TRAFFIC = '0.0.0.0/0'

/** What a function that names addresses is given. */
export interface SandboxNetworkSelectorContext {
  allTraffic: string
  /** Empty: there are no rules here. */
  rules: Map<string, never>
}

/** Addresses and domains, or a function that gives them. */
export type SandboxNetworkSelector = string[] | ((context: SandboxNetworkSelectorContext) => string[])

/** What a sandbox may reach. */
export interface SandboxNetworkOpts {
  allowOut?: SandboxNetworkSelector
  denyOut?: SandboxNetworkSelector
}

/** What happens at the end of the time. */
export type SandboxOnTimeout = 'kill' | { action: 'kill' }

export interface SandboxLifecycle {
  onTimeout: SandboxOnTimeout
  autoResume?: false
}

export interface SandboxInfoLifecycle {
  onTimeout: 'pause' | 'kill'
  autoResume: boolean
}

/** Options of `create` that are stacyvm's own, beside E2B's. */
export type StacyOpts = Pick<
  CreateOptions,
  | 'image'
  | 'provider'
  | 'runtime'
  | 'memoryMib'
  | 'cpus'
  | 'pids'
  | 'diskMib'
  | 'ports'
  | 'mounts'
  | 'lifetime'
  | 'idempotencyKey'
>

/** With what a sandbox is made. */
export interface SandboxOpts extends ConnectionOpts, StacyOpts {
  /** A snapshot's id, or a template of the provider; an image is named with `image`. */
  template?: string
  metadata?: Record<string, string>
  envs?: Record<string, string>
  /** Milliseconds that it lives, 300,000 unless it is said. */
  timeoutMs?: number
  /** Taken, and means nothing: nobody else reaches a sandbox. */
  secure?: boolean
  /** There is no network unless this or `network` asks for it. */
  allowInternetAccess?: boolean
  network?: SandboxNetworkOpts
  lifecycle?: SandboxLifecycle
}

/** How a sandbox is connected to. */
export interface SandboxConnectOpts extends ConnectionOpts {
  /** Milliseconds from now that it lives at least, 300,000 unless it is said. */
  timeoutMs?: number
  /** `reboot` is refused. */
  onResume?: SandboxOnResume
}

/** Which sandboxes are listed. */
export interface SandboxListOpts extends Omit<ConnectionOpts, 'signal'> {
  query?: {
    metadata?: Record<string, string>
    state?: SandboxState[]
    startedAfter?: Date
    template?: string
  }
  order?: SandboxListOrder
  /** Sandboxes of a page, 100 unless it is said. */
  limit?: number
  nextToken?: string
}

export interface SandboxMetricsOpts extends ConnectionOpts {
  start?: Date
  end?: Date
}

export interface SandboxPauseOpts extends ConnectionOpts {
  /** `false` is refused: processes are kept. */
  keepMemory?: boolean
}

export interface CreateSnapshotOpts extends ConnectionOpts {
  /** Refused: snapshots have no names. */
  name?: string
}

/** A snapshot, from which `Sandbox.create(snapshotId)` makes sandboxes. */
export interface SnapshotInfo {
  snapshotId: string
  names: string[]
}

/** What is known of a sandbox. */
export interface SandboxInfo {
  sandboxId: string
  /** What its root file system was made from: `host`, an image. */
  templateId: string
  name?: string
  metadata: Record<string, string>
  startedAt: Date
  /** When it will be ended; the last of all times where it has no end. */
  endAt: Date
  state: SandboxState
  cpuCount: number
  memoryMB: number
  /** `stacyvm`: there is no envd inside. */
  envdVersion: string
  lifecycle?: SandboxInfoLifecycle
  volumeMounts?: { name: string; path: string }[]
}

/** What a sandbox uses. */
export interface SandboxMetrics {
  timestamp: Date
  /** Since its creation. */
  cpuUsedPct: number
  cpuCount: number
  memUsed: number
  /** 0 where it has no limit. */
  memTotal: number
  /** 0: part of `memUsed` here. */
  memCache: number
  /** 0 where the provider does not see it. */
  diskUsed: number
  /** 0 where it has no limit. */
  diskTotal: number
}

export type CommandRequestOpts = Pick<ConnectionOpts, 'requestTimeoutMs' | 'signal'>

/** How a command is run. */
export interface CommandStartOpts extends CommandRequestOpts {
  /** Resolves once it has started, with its handle. */
  background?: boolean
  /** Its directory; the user's home unless it is said. */
  cwd?: string
  user?: Username
  envs?: Record<string, string>
  /** Is called with output as it comes, and awaited. */
  onStdout?: (data: string) => unknown
  onStderr?: (data: string) => unknown
  /** Keeps its standard input open. */
  stdin?: boolean
  /** Milliseconds after which it is killed, 60,000 unless it is said; 0 is endless. */
  timeoutMs?: number
}

/** How a command is followed. `timeoutMs` means nothing: the command keeps its own. */
export type CommandConnectOpts = Pick<CommandStartOpts, 'onStdout' | 'onStderr' | 'timeoutMs'> &
  CommandRequestOpts

/** What a command said, and how it ended. */
export interface CommandResult {
  /** -1 for a command that a signal ended. */
  exitCode: number
  /** `exit status 3` or `signal: killed`; undefined after success. */
  error?: string | undefined
  stdout: string
  stderr: string
}

/** A command that runs. */
export interface ProcessInfo {
  pid: number
  /** Undefined: commands have no tags here. */
  tag?: string
  cmd: string
  args: string[]
  /** Empty: a command's variables are not told again. */
  envs: Record<string, string>
  /** Undefined: nor is its directory. */
  cwd?: string
}

/** With what a terminal is made. */
export interface PtyCreateOpts extends CommandRequestOpts {
  cols: number
  rows: number
  /** Is called with what the terminal shows, and awaited. */
  onData: (data: Uint8Array) => unknown
  timeoutMs?: number
  user?: Username
  envs?: Record<string, string>
  cwd?: string
}

export type PtyConnectOpts = Pick<PtyCreateOpts, 'onData' | 'timeoutMs'> & CommandRequestOpts

/** What there is at a path. */
export enum FileType {
  FILE = 'file',
  DIR = 'dir',
  SYMLINK = 'symlink',
}

/** A file that was written. */
export interface WriteInfo {
  name: string
  type?: FileType
  path: string
}

/** A file, directory or symbolic link. */
export interface EntryInfo extends WriteInfo {
  size: number
  mode: number
  /** As `-rw-r--r--`. */
  permissions: string
  owner: string
  group: string
  modifiedTime?: Date
  symlinkTarget?: string
}

/** What a file is written from. */
export type WriteData = string | ArrayBuffer | Uint8Array | Blob | ReadableStream

/** One of several files that are written. */
export interface WriteEntry {
  path: string
  data: WriteData
}

export interface FilesystemRequestOpts extends CommandRequestOpts {
  /** Whose files they are; paths that do not begin with `/` begin in the user's home. */
  user?: Username
}

export interface FilesystemWriteOpts extends FilesystemRequestOpts {
  gzip?: boolean
  useOctetStream?: boolean
  /** Refused: files have no labels here. */
  metadata?: Record<string, string>
}

export interface FilesystemReadOpts extends FilesystemRequestOpts {
  gzip?: boolean
  streamIdleTimeoutMs?: number
}

export interface FilesystemListOpts extends FilesystemRequestOpts {
  /** How many levels deep. */
  depth?: number
}

/** How a directory is watched. */
export interface WatchOpts extends FilesystemRequestOpts {
  /** Milliseconds after which it ends, 60,000 unless it is said; 0 is endless. */
  timeoutMs?: number
  /** Is called at its end, with the error that ended it. */
  onExit?: (error?: Error) => unknown
  recursive?: boolean
  /** Tells of what is there now, too. */
  includeEntry?: boolean
  allowNetworkMounts?: boolean
}

/** What happened to a path that is watched. */
export enum FilesystemEventType {
  CHMOD = 'chmod',
  CREATE = 'create',
  REMOVE = 'remove',
  /** Never told here: the old name is removed and the new one created. */
  RENAME = 'rename',
  WRITE = 'write',
}

/** A change of a path that is watched. */
export interface FilesystemEvent {
  /** Where, relative to the directory. */
  name: string
  type: FilesystemEventType
  /** With `includeEntry`: what is there now. */
  entry?: EntryInfo
}
