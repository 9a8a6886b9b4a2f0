// The Node package, and dockerode, measured from within: a word a line, milliseconds back.
const [, , which, image] = process.argv

async function timed(work) {
  const start = process.hrtime.bigint()
  const result = await work()
  return [Number(process.hrtime.bigint() - start) / 1e6, result]
}

function assert(holds, result) {
  if (!holds) throw new Error(`not as it should be: ${JSON.stringify(result)}`)
}

async function dockerode() {
  const docker = new (require('dockerode'))()
  const container = await docker.createContainer({
    Image: image,
    Cmd: ['sleep', '100000'],
    HostConfig: { NetworkMode: 'none' },
  })
  await container.start()
  const exec = async () => {
    const made = await container.exec({ Cmd: ['/bin/true'], AttachStdout: true, AttachStderr: true })
    const stream = await made.start({ hijack: true, stdin: false })
    await new Promise((end, fail) => stream.on('end', end).on('error', fail).resume())
    return made.inspect()
  }
  const run = async () => {
    const [taken, { ExitCode }] = await timed(exec)
    assert(ExitCode === 0, ExitCode)
    return taken
  }
  return { words: { run }, close: () => container.remove({ force: true }) }
}

async function stacyvm() {
  const { Sandbox } = require('stacyvm')
  const where = image ? { provider: 'docker', image } : {}
  const sandbox = await Sandbox.create({ lifetime: 'attached', ...where })
  const waiting = await sandbox.commands.run(['sleep', '100000'], { background: true })
  const run = async () => {
    const [taken, result] = await timed(() => sandbox.commands.run(['/bin/true']))
    assert(result.ok, result)
    return taken
  }
  const out = async () => {
    const size = 64 << 20
    const zeros = ['head', '-c', String(size), '/dev/zero']
    const [taken, result] = await timed(() => sandbox.commands.run(zeros))
    assert(result.stdoutBytes.length === size, result.stdoutBytes.length)
    return taken
  }
  const code = async () => {
    const [taken, result] = await timed(() => sandbox.runCode('1+1'))
    assert(result.text === '2', result)
    return taken
  }
  // What a handle knows it answers itself: it does not go into the addon for that.
  const call = async () => {
    const rounds = 200_000
    const [taken] = await timed(() => {
      let sum = 0
      for (let round = 0; round < rounds; round++) sum += waiting.exit === null ? 1 : 0
      assert(sum === rounds, sum)
    })
    return taken / rounds
  }
  return { words: { run, out, code, call }, close: () => sandbox.kill() }
}

async function main() {
  const { words, close } = await (which === 'dockerode' ? dockerode() : stacyvm())
  for await (const line of require('node:readline').createInterface({ input: process.stdin })) {
    try {
      console.log(line === 'ready' ? 0 : await words[line]())
    } catch (error) {
      console.log(String(error).replaceAll('\n', ' '))
    }
  }
  await close()
}

main()
