// dockerode, measured from within: a word a line, milliseconds back.
const [, , , image, runtime] = process.argv;
const Docker = require("dockerode");
const docker = new Docker();

async function create() {
  const start = process.hrtime.bigint();
  const made = await docker.createContainer({
    Image: image,
    Cmd: ["sleep", "100000"],
    HostConfig: { NetworkMode: "none", Runtime: runtime },
  });
  await made.start();
  const exec = await made.exec({ Cmd: ["true"], AttachStdout: true, AttachStderr: true });
  const stream = await exec.start({ hijack: true, stdin: false });
  await new Promise((end, fail) => stream.on("end", end).on("error", fail).resume());
  const { ExitCode } = await exec.inspect();
  const taken = Number(process.hrtime.bigint() - start) / 1e6;
  await made.remove({ force: true });
  if (ExitCode !== 0) throw new Error(`the command ended with ${ExitCode}`);
  return taken;
}

async function main() {
  for await (const line of require("readline").createInterface({ input: process.stdin })) {
    try {
      console.log(line === "ready" ? 0 : await create());
    } catch (error) {
      console.log(String(error).replaceAll("\n", " "));
    }
  }
}

main();
