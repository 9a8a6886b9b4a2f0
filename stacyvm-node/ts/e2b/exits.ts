// How commands ended, in E2B's words.
import type { ExitInfo } from '../../native/index.js'
import { CommandExitError, SandboxError, TimeoutError } from './errors.js'
import type { CommandResult } from './types.js'

/** E2B's names of the signals from 1 on. */
const signals = [
  'hangup', 'interrupt', 'quit', 'illegal instruction', 'trace/breakpoint trap', 'aborted', 'bus error',
  'floating point exception', 'killed', 'user defined signal 1', 'segmentation fault',
  'user defined signal 2', 'broken pipe', 'alarm clock', 'terminated',
]

/** The result of a command that was there to its end, whatever its exit code. */
export function resultOf(exit: ExitInfo, stdout: string, stderr: string): CommandResult {
  const { reason, exitCode, signal } = exit
  switch (reason) {
    case 'code': {
      const code = exitCode ?? 0
      return { exitCode: code, error: code === 0 ? undefined : `exit status ${code}`, stdout, stderr }
    }
    case 'timed_out':
      throw new TimeoutError('the command was ended at its timeout; `timeoutMs` makes it longer, 0 endless')
    case 'sandbox_gone':
      throw Object.assign(new TimeoutError('the sandbox ended before its command'), { code: reason })
    case 'cancelled':
      throw new SandboxError('the command was given up, or is followed by another process')
    case 'out_of_memory':
      return { exitCode: -1, error: 'signal: killed: out of memory', stdout, stderr }
    case 'signal': {
      const name = signals[(signal ?? 0) - 1] ?? `signal ${signal}`
      return { exitCode: -1, error: `signal: ${name}`, stdout, stderr }
    }
  }
}

/** The result of a command that exited with 0; others are thrown. */
export function checked(result: CommandResult): CommandResult {
  if (result.exitCode !== 0) throw new CommandExitError(result)
  return result
}
