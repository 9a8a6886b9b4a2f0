import type { CommandResult } from './result.js'

/** What went wrong in stacyvm. */
export class StacyError extends Error {
  /** The code of the class. */
  static readonly code: string = ''
  /** The stable code: `not_found`, `timeout`, ... */
  code: string
  /** Whether the same call may succeed later. */
  retryable = false
  /** Milliseconds to wait before that. */
  retryAfterMs: number | null = null
  /** The operation that failed, as `exec` or `create`. */
  operation = ''
  /** The provider that failed. */
  provider: string | null = null
  /** Facts: `field`, `value`, `expected`, `remedy`, `path`, ... */
  context: Record<string, string> = {}

  constructor(message?: string, options?: ErrorOptions) {
    super(message, options)
    this.code = new.target.code
  }

  override get name(): string {
    return this.constructor.name
  }
}

/** A value makes no sense; `context` names the field and what was expected. */
export class InvalidArgumentError extends StacyError {
  static override readonly code = 'invalid_argument'
}

/** This combination of provider, runtime and host cannot do it. Nothing was done. */
export class UnsupportedError extends StacyError {
  static override readonly code = 'unsupported'
}

/** No such sandbox, command, path, image, user or port. */
export class NotFoundError extends StacyError {
  static override readonly code = 'not_found'
}

/** It is there already. */
export class AlreadyExistsError extends StacyError {
  static override readonly code = 'already_exists'
}

/** Another state or another request of the same key stands against it. */
export class ConflictError extends StacyError {
  static override readonly code = 'conflict'
}

/** The caller, or the user inside, may not. */
export class PermissionDeniedError extends StacyError {
  static override readonly code = 'permission_denied'
}

/** A credential is missing or wrong. */
export class UnauthenticatedError extends StacyError {
  static override readonly code = 'unauthenticated'
}

/** A quota, a limit or the host's means are used up. */
export class ResourceExhaustedError extends StacyError {
  static override readonly code = 'resource_exhausted'
}

/** A disk is full. */
export class NoSpaceError extends StacyError {
  static override readonly code = 'no_space'
}

/** A deadline passed. */
export class TimeoutError extends StacyError {
  static override readonly code = 'timeout'
}

/** The caller gave it up. */
export class CancelledError extends StacyError {
  static override readonly code = 'cancelled'
}

/** The runtime, its daemon or its service does not answer. */
export class UnavailableError extends StacyError {
  static override readonly code = 'unavailable'
}

/** The sandbox ended. */
export class SandboxGoneError extends StacyError {
  static override readonly code = 'sandbox_gone'
}

/** The command does not exist inside; nothing ran. */
export class CommandNotFoundError extends StacyError {
  static override readonly code = 'command_not_found'
}

/** The command exists but cannot be executed; nothing ran. */
export class CommandNotExecutableError extends StacyError {
  static override readonly code = 'command_not_executable'
}

/** A directory where a file is needed. */
export class IsDirectoryError extends StacyError {
  static override readonly code = 'is_directory'
}

/** A file where a directory is needed. */
export class NotDirectoryError extends StacyError {
  static override readonly code = 'not_directory'
}

/** The directory has entries. */
export class DirectoryNotEmptyError extends StacyError {
  static override readonly code = 'directory_not_empty'
}

/** The other side broke the protocol. */
export class ProtocolError extends StacyError {
  static override readonly code = 'protocol'
}

/** Stored data is damaged. */
export class CorruptError extends StacyError {
  static override readonly code = 'corrupt'
}

/** Stored data or a peer is of a version that this build cannot serve. */
export class IncompatibleError extends StacyError {
  static override readonly code = 'incompatible'
}

/** A defect of stacyvm or of its host. */
export class InternalError extends StacyError {
  static override readonly code = 'internal'
}

/** A command that was run with `check: true` did not exit with 0. */
export class CommandFailedError extends StacyError {
  static override readonly code = 'command_failed'
  /** What it said, and how it ended. */
  result: CommandResult

  constructor(message: string, result: CommandResult) {
    super(message)
    this.result = result
  }
}
