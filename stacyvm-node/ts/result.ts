import { inspect } from 'node:util'
import type { ExitInfo, Output } from '../native/index.js'

/** What a command said, and how it ended. */
export class CommandResult {
  readonly #output: Output
  #stdout: string | undefined
  #stderr: string | undefined

  constructor(output: Output) {
    this.#output = output
  }

  /** Standard output as text; what is not UTF-8 is replaced. */
  get stdout(): string {
    return (this.#stdout ??= this.#output.stdout.toString())
  }

  /** Standard error as text; what is not UTF-8 is replaced. */
  get stderr(): string {
    return (this.#stderr ??= this.#output.stderr.toString())
  }

  /** Standard output. */
  get stdoutBytes(): Buffer {
    return this.#output.stdout
  }

  /** Standard error. */
  get stderrBytes(): Buffer {
    return this.#output.stderr
  }

  /** Bytes of standard output that were read and not kept. */
  get stdoutTruncatedBytes(): number {
    return this.#output.stdoutTruncatedBytes
  }

  /** Bytes of standard error that were read and not kept. */
  get stderrTruncatedBytes(): number {
    return this.#output.stderrTruncatedBytes
  }

  /** Milliseconds from the request to the end. */
  get durationMs(): number {
    return this.#output.durationMs
  }

  /** How it ended. */
  get exit(): ExitInfo {
    return this.#output.exit
  }

  /** The exit code; null for a command that did not exit by itself. */
  get exitCode(): number | null {
    return this.#output.exit.exitCode
  }

  /** The number of the signal that ended it; null for one that no signal ended. */
  get signal(): number | null {
    return this.#output.exit.signal
  }

  /** Whether it exited with 0. */
  get ok(): boolean {
    return this.exitCode === 0
  }

  /** What is shown and written of it. */
  toJSON(): { exit: ExitInfo; stdout: string; stderr: string; durationMs: number } {
    const { exit, stdout, stderr, durationMs } = this
    return { exit, stdout, stderr, durationMs }
  }

  [inspect.custom](): object {
    return this.toJSON()
  }
}
