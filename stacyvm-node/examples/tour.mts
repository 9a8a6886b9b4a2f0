// What programs write; `scripts/node.sh check` compiles it with all strictness.
import type { Duplex, Readable } from 'node:stream'
import Default, {
  CommandFailedError,
  Engine,
  NotFoundError,
  Sandbox,
  StacyError,
  type CommandHandle,
  type CommandResult,
  type CreateOptions,
  type EntryInfo,
  type PoolStats,
  type SandboxInfo,
} from 'stacyvm'

const options: CreateOptions = {
  image: 'python:3.12',
  memoryMib: 512,
  timeoutMs: 600_000,
  network: { allow: ['pypi.org'] },
  ports: [{ guest: 8080 }],
  mounts: [{ target: '/scratch', source: { tmpfs: { sizeMib: 64 } } }],
}

export async function tour(): Promise<void> {
  await using engine = new Engine({ stateDir: '/tmp/state' })
  await using sandbox: Sandbox = await Default.create(options)

  const result: CommandResult = await sandbox.commands.run('make', { timeoutMs: 60_000, check: true })
  const code: number | null = result.exitCode
  const server: CommandHandle = await sandbox.commands.run(['python3', '-m', 'http.server'], {
    background: true,
  })
  for await (const { stdout, stderr } of server) console.log(stdout ?? stderr, code)
  await sandbox.exec(['sleep', '60'], { signal: AbortSignal.timeout(1000) })

  const text: string = await sandbox.files.read('/workspace/a')
  const bytes: Buffer = await sandbox.files.read('/workspace/a', { format: 'bytes' })
  const stream: Readable = await sandbox.files.read('/workspace/a', { format: 'stream' })
  const entry: EntryInfo = await sandbox.files.write('/workspace/b', stream, { mode: 0o600 })
  const listed: SandboxInfo[] = []
  for await (const info of engine.list({ metadata: { owner: 'me' } })) listed.push(info)
  const modified: Date = entry.modifiedTime
  console.log(text, bytes, modified, listed)

  const terminal = await sandbox.pty.create({ rows: 40, cols: 120 })
  await terminal.sendInput('exit\n')
  for await (const shown of terminal) process.stdout.write(shown)

  const part: Buffer = await sandbox.files.read('/workspace/a', { format: 'bytes', offset: 1, length: 2 })
  const connection: Duplex = await sandbox.dial(8000)
  connection.end(part)
  await using listener = await sandbox.listen()
  for await (const caller of listener) caller.pipe(process.stdout)
  for await (const { command, stdout, exit } of sandbox.logs(undefined, { follow: true, since: new Date() })) {
    console.log(command, stdout, exit?.exitCode)
  }
  await using pool = await engine.pool({ image: 'host', size: 4, maxAgeMs: 60_000 })
  const claimed: Sandbox = await pool.claim({ env: { A: '1' }, files: { '/workspace/a': bytes } })
  const { warm, lastError }: PoolStats = await pool.stats()
  console.log(claimed.id, warm, lastError)
  await engine.create({ image: 'python:3.12', onPull: ({ done, total }) => console.log(done / total) })

  try {
    await Sandbox.connect('nonesuch')
  } catch (error) {
    if (error instanceof CommandFailedError) console.log(error.result.stderr)
    else if (error instanceof NotFoundError) console.log(error.code)
    else if (error instanceof StacyError && error.retryable) console.log(error.retryAfterMs)
  }

  // @ts-expect-error: there is no such option.
  await sandbox.commands.run('true', { timeout: 5 })
  // @ts-expect-error: nobody reads the output of a background command.
  await sandbox.commands.run('true', { background: true, onStdout: console.log })
  // @ts-expect-error: there is no such option.
  await Sandbox.create({ memory: 5 })
  // @ts-expect-error: a claim brings secrets.
  await engine.pool({ secrets: { A: { env: 'HOME' } } })
}
