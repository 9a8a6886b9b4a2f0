"""The Python package, and docker-py, measured from within: a word a line, milliseconds back."""

import sys
import time

which, image = sys.argv[1:]


def timed(work):
    start = time.perf_counter()
    result = work()
    return (time.perf_counter() - start) * 1e3, result


if which == "docker-py":
    import docker

    container = docker.from_env().containers.run(
        image, ["sleep", "100000"], detach=True, network_mode="none"
    )

    def run():
        taken, result = timed(lambda: container.exec_run(["/bin/true"]))
        assert result.exit_code == 0, result
        return taken

    WORDS = {"run": run}

    def close():
        container.remove(force=True)

else:
    from stacyvm import Sandbox

    if which == "large":
        memory = bytearray(2 << 30)
        memory[:: 4096] = b"x" * (len(memory) // 4096)
    where = {"provider": "docker", "image": image} if image else {}
    sandbox = Sandbox.create(lifetime="attached", **where)
    waiting = sandbox.commands.run(["sleep", "100000"], background=True)

    def run():
        taken, result = timed(lambda: sandbox.commands.run(["/bin/true"]))
        assert result.ok, result
        return taken

    def out():
        taken, result = timed(lambda: sandbox.commands.run(["head", "-c", str(64 << 20), "/dev/zero"]))
        assert len(result.stdout_bytes) == 64 << 20
        return taken

    def code():
        taken, result = timed(lambda: sandbox.run_code("1+1"))
        assert result.text == "2", result
        return taken

    def call():
        rounds = range(200_000)
        taken = timed(lambda: [waiting.pid for _ in rounds])[0]
        return (taken - timed(lambda: [None for _ in rounds])[0]) / len(rounds)

    def first():
        made = Sandbox.create(lifetime="attached")
        assert made.commands.run(["/bin/true"]).ok
        return made

    def create():
        taken, made = timed(first)
        made.kill()
        return taken

    WORDS = {"run": run, "out": out, "code": code, "call": call, "create": create}

    def close():
        sandbox.kill()


for line in sys.stdin:
    word = line.strip()
    try:
        answer = 0 if word == "ready" else WORDS[word]()
    except Exception as error:  # noqa: BLE001 - the bench prints it as blocked
        answer = f"{type(error).__name__}: {error}".replace("\n", " ")
    print(answer, flush=True)

close()
