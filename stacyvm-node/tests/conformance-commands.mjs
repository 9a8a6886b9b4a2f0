// Commands of the conformance suite's server. They are followed in bytes, which the native half
// has and text is made of.
import { createRequire } from 'node:module'
import { pipeline } from 'node:stream/promises'
import {
  BrokeOff, CLOSE, CREDIT, DONE, ERROR, EVENT, EXITED, HEAD, LOST, RESIZE, Refused, SIGNAL, STDERR, STDIN,
  STDOUT, Stream, ended, errorOf, frame, raw, sent, timeOf, told,
} from './conformance-wire.mjs'

const { called } = createRequire(import.meta.url)('../dist/call.js')

/** The commands of a sandbox, by the names that clients gave them. */
export class Commands {
  #native
  #ids = new Map()

  constructor(sandbox, native) {
    this.sandbox = sandbox
    this.#native = native
  }

  #names() {
    return new Map([...this.#ids].map(([name, id]) => [id, name]))
  }

  #idOf(name) {
    const id = this.#ids.get(name)
    if (id === undefined) throw new Refused('not_found', `there is no command ${name}`)
    return id
  }

  async start({ exec, argv, env = [], workdir, user, stdin, tty, timeout_us: timeout, background = false }) {
    if (this.#ids.has(exec)) throw new Refused('already_exists', 'the id is taken')
    const started = await called(
      this.#native.start(argv.map(raw), {
        env: Object.fromEntries(env),
        cwd: workdir ?? undefined,
        user: user ?? undefined,
        timeoutMs: timeout === null ? undefined : timeout / 1000,
        openStdin: stdin,
        background,
        size: tty ? [tty.rows, tty.columns] : undefined,
      }),
    )
    this.#ids.set(exec, started.id)
    return new Session(exec, started, !background)
  }

  async attach(name, { stdin, replay }) {
    return new Session(name, await called(this.#native.attach(this.#idOf(name), stdin, replay)), false)
  }

  /** What is kept of a command's output, and what comes if it is followed. */
  async log(name, { follow, age_us: age }) {
    const sinceMs = age === null ? undefined : Date.now() - age / 1000
    const logs = await called(this.#native.logs({ command: this.#idOf(name), follow, sinceMs }))
    const frames = async function* () {
      for (let told; (told = await called(logs.next())) !== null; ) yield frameOf(told.event)
    }
    return new Stream(frames(), () => logs.close())
  }

  async signal(name, { signal, scope }) {
    await this.sandbox.commands.sendSignal(this.#idOf(name), signal, { scope })
    return {}
  }

  async list() {
    const names = this.#names()
    const all = await this.sandbox.commands.list()
    const execs = all.filter(({ id }) => names.has(id)).map(({ id, started, exit, ...info }) => ({
      ...info,
      exec: names.get(id),
      started: timeOf(started),
      exited: exit && ended(exit),
    }))
    return { execs }
  }

  async processes() {
    const names = this.#names()
    const all = await this.sandbox.processes()
    const processes = all.map(({ residentBytes, cpuUs, command, ...process }) => ({
      ...process,
      resident_bytes: residentBytes,
      cpu_us: cpuUs,
      exec: names.get(command) ?? null,
    }))
    return { processes }
  }
}

function frameOf({ stdout, stderr, lost, exit }) {
  if (exit) return told(EXITED, ended(exit))
  if (lost) return told(LOST, lost)
  return stdout ? frame(STDOUT, stdout) : frame(STDERR, stderr)
}

/** A command that is followed on the connection that asked for it. */
export class Session {
  protocol = 'stacyvm-exec/1'
  #credit = 0
  #over = false
  #more = () => {}

  constructor(name, process, ends) {
    Object.assign(this, { name, process, ends })
  }

  async follow(client, source) {
    try {
      await sent(client, told(HEAD, { exec: this.name, pid: this.process.pid }))
      this.#tell(client).catch(() => client.destroy())
      await this.#listen(client, source)
    } catch (error) {
      if (!(error instanceof BrokeOff)) throw error
    } finally {
      this.#over = true
      this.#more()
      // What outlived the first process goes on.
      if (this.ends && this.process.exit === null) await this.process.kill().catch(() => {})
      client.destroy()
    }
  }

  /** Whether something may be sent; nothing is taken while nobody reads. */
  async #maySend() {
    while (this.#credit <= 0 && !this.#over) await new Promise((more) => (this.#more = more))
    return !this.#over
  }

  async #tell(client) {
    while (await this.#maySend()) {
      let event
      try {
        event = await called(this.process.nextEvent())
      } catch (error) {
        return sent(client, told(ERROR, errorOf(error)))
      }
      if (!event) return
      this.#credit -= EVENT + (event.stdout ?? event.stderr ?? '').length
      await sent(client, frameOf(event))
      if (event.exit) return
    }
  }

  async #listen(client, source) {
    for (;;) {
      const { kind, payload } = await source.frame()
      const number = payload.readUInt32BE()
      if (kind === CREDIT) {
        this.#credit += number
        this.#more()
      } else {
        const said = (error) => Buffer.from(error ? JSON.stringify(errorOf(error)) : '')
        const done = (error) => sent(client, frame(DONE, payload.subarray(0, 4), said(error)))
        this.#call(kind, payload.subarray(4)).then(() => done(), done).catch(() => client.destroy())
      }
    }
  }

  async #call(kind, payload) {
    const asked = kind === RESIZE || kind === SIGNAL ? JSON.parse(payload.toString()) : {}
    if (kind === STDIN) await called(this.process.writeStdin(payload))
    else if (kind === CLOSE) await called(this.process.closeStdin())
    else if (kind === RESIZE) await called(this.process.resize(asked.rows, asked.columns))
    else if (kind === SIGNAL) await called(this.process.signal(asked.signal, asked.scope))
    else throw new Refused('protocol', `no call has the number ${kind}`)
  }
}

/** A connection to a port inside, on the connection that asked for it. */
export class Pipe {
  protocol = 'stacyvm-stream/1'

  constructor(inside) {
    this.inside = inside
  }

  async follow(client, source) {
    // Whichever side fails, both see the end; of one way it leaves the other.
    const there = pipeline(source.rest(), this.inside).catch(() => this.inside.destroy())
    const back = pipeline(this.inside, client).catch(() => client.destroy())
    await Promise.all([there, back])
    this.inside.destroy()
    client.destroy()
  }
}
