// What code gave, with the names of E2B's interpreter.
import type { CodeContext, CodeError, CodeResult } from '../../native/index.js'
import type { Sandbox as Machine } from '../sandbox.js'
import { InvalidArgumentError, NotSupportedError, asked } from './errors.js'
import { patience } from './options.js'
import type { ConnectionOpts } from './types.js'

/** E2B's names of the forms that a value has. */
const forms = new Map([
  ['text/plain', 'text'],
  ['text/html', 'html'],
  ['text/markdown', 'markdown'],
  ['image/svg+xml', 'svg'],
  ['image/png', 'png'],
  ['image/jpeg', 'jpeg'],
  ['application/pdf', 'pdf'],
  ['text/latex', 'latex'],
  ['application/json', 'json'],
  ['application/javascript', 'javascript'],
])

export type MIMEType = string
/** What a value is, by E2B's names of its forms, and by media type. */
export type RawData = Record<MIMEType, any>
/** Python alone has an interpreter here. */
export type RunCodeLanguage = 'python' | (string & {})

/** Output as it came. */
export class OutputMessage {
  constructor(
    readonly line: string,
    /** Microseconds since 1970. */
    readonly timestamp: number,
    /** Whether it was standard error. */
    readonly error: boolean,
  ) {}

  toString(): string {
    return this.line
  }
}

/** What the code raised. */
export class ExecutionError {
  constructor(
    public name: string,
    public value: string,
    public traceback: string,
  ) {}
}

/** What the code wrote. */
export interface Logs {
  stdout: string[]
  stderr: string[]
}

/** A value that was shown, in the forms that it has. */
export class Result {
  readonly text?: string
  readonly html?: string
  readonly markdown?: string
  readonly svg?: string
  /** In base64, as are `jpeg` and `pdf`. */
  readonly png?: string
  readonly jpeg?: string
  readonly pdf?: string
  readonly latex?: string
  /** A value, which E2B too gives where its types say that it is text. */
  readonly json?: any
  readonly javascript?: string
  /** Other forms by media type. */
  readonly extra: Record<string, any> = {}
  /** All forms. */
  readonly raw: RawData

  constructor(
    rawData: RawData,
    readonly isMainResult: boolean,
  ) {
    this.raw = { ...rawData }
    const known: string[] = [...forms.values()]
    for (const [name, form] of Object.entries(this.raw)) {
      if (known.includes(name)) Object.assign(this, { [name]: form })
      else this.extra[name] = form
    }
  }

  /** The names of its forms, beside `text`. */
  formats(): string[] {
    const named = [...forms.values()].filter((name) => name !== 'text' && this.raw[name])
    return [...named, ...Object.keys(this.extra)]
  }

  /** What is written of it. */
  toJSON(): Record<string, any> {
    const { text, html, markdown, svg, png, jpeg, pdf, latex, json, javascript, extra } = this
    const written = { text, html, markdown, svg, png, jpeg, pdf, latex, json, javascript }
    return Object.keys(extra).length > 0 ? { ...written, extra } : written
  }
}

/** What code gave. */
export class Execution {
  constructor(
    public results: Result[] = [],
    public logs: Logs = { stdout: [], stderr: [] },
    public error?: ExecutionError,
    /** Undefined: nobody counts here. */
    public executionCount?: number,
  ) {}

  /** The value of its last expression. */
  get text(): string | undefined {
    return this.results.find((result) => result.isMainResult)?.text
  }

  /** What is written of it. */
  toJSON(): { results: Result[]; logs: Logs; error: ExecutionError | undefined } {
    const { results, logs, error } = this
    return { results, logs, error }
  }
}

/** An interpreter with its own state. */
export interface Context {
  id: string
  language: string
  cwd: string
}

/** How code is run. */
export interface RunCodeOpts {
  /** Is called with output as it comes, and awaited. */
  onStdout?: (output: OutputMessage) => unknown
  onStderr?: (output: OutputMessage) => unknown
  /** Is called with each value that is shown. */
  onResult?: (result: Result) => unknown
  /** Is called with what the code raises. */
  onError?: (error: ExecutionError) => unknown
  /** Refused: variables belong to the interpreter. */
  envs?: Record<string, string>
  /** Milliseconds after which it is interrupted, 60,000 unless it is said; 0 is endless. */
  timeoutMs?: number
  requestTimeoutMs?: number
}

/** With what an interpreter is made. */
export interface CreateCodeContextOpts extends Pick<ConnectionOpts, 'requestTimeoutMs'> {
  /** The user's home unless it is said. */
  cwd?: string
  language?: RunCodeLanguage
}

/** What JSON says; the text, where the code gave something else. */
function parsed(form: string): unknown {
  try {
    return JSON.parse(form)
  } catch {
    return form
  }
}

function resultOf(result: CodeResult): Result {
  const raw: RawData = {}
  for (const [media, form] of Object.entries(result.data)) {
    const name = forms.get(media) ?? media
    raw[name] = name === 'json' ? parsed(form) : form
  }
  return new Result(raw, result.isMainResult)
}

const errorOf = ({ name, value, traceback }: CodeError) => new ExecutionError(name, value, traceback)

/** A context as E2B tells it. */
export const contextOf = (context: CodeContext, home: string): Context => ({
  id: context.id,
  language: context.language,
  cwd: context.cwd ?? home,
})

const OF_CODE = ['language', 'context', 'onStdout', 'onStderr', 'onResult', 'onError', 'envs', 'timeoutMs']

/** Runs code in an interpreter of a sandbox. */
export async function runCode(
  machine: Machine,
  code: string,
  opts: RunCodeOpts & { language?: RunCodeLanguage; context?: Context } = {},
): Promise<Execution> {
  const { language, context, envs, timeoutMs = 60_000, onStdout, onStderr, onResult, onError } = opts
  return asked(opts, OF_CODE, async () => {
    if (language !== undefined && context !== undefined) {
      throw new InvalidArgumentError('`language` and `context` are both given, expected one: a context has its language')
    }
    if (envs && Object.keys(envs).length > 0) {
      throw new NotSupportedError('set variables in the code: `os.environ[...] = ...`, or at `create`')
    }
    const execution = new Execution()
    const { results, logs } = execution
    const said = (pieces: string[], error: boolean, tell: RunCodeOpts['onStdout']) => (text: string) => {
      pieces.push(text)
      return tell?.(new OutputMessage(text, Date.now() * 1000, error))
    }
    await machine.runCode(code, {
      language,
      context: context?.id,
      timeoutMs: patience(timeoutMs),
      signal: (opts as ConnectionOpts).signal,
      onStdout: said(logs.stdout, false, onStdout),
      onStderr: said(logs.stderr, true, onStderr),
      onResult: (shown) => {
        const result = resultOf(shown)
        results.push(result)
        return onResult?.(result)
      },
      onError: (raised) => {
        execution.error = errorOf(raised)
        return onError?.(execution.error)
      },
    })
    return execution
  })
}
