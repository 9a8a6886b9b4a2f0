"""docker-py and llm-sandbox, measured from within: a word a line, milliseconds back."""

import io
import sys
import tarfile
import time

name, image, runtime = sys.argv[1:]

import docker

client = docker.from_env()
settings = {"network_mode": "none", "runtime": runtime}
kept = None


def timed(work):
    start = time.perf_counter()
    result = work()
    return (time.perf_counter() - start) * 1e3, result


def container():
    global kept
    if kept is None:
        kept = client.containers.run(image, ["sleep", "100000"], detach=True, **settings)
    return kept


def create():
    if name == "docker-py":
        def work():
            made = client.containers.run(image, ["sleep", "100000"], detach=True, **settings)
            assert made.exec_run(["true"]).exit_code == 0
            return made

        taken, made = timed(work)
        made.remove(force=True)
        return taken
    from llm_sandbox import SandboxSession

    session = SandboxSession(
        client=client, lang="python", image=image, skip_environment_setup=True,
        keep_template=True, runtime_configs=settings,
    )

    def work():
        session.open()
        assert session.execute_command("true").exit_code == 0

    taken, _ = timed(work)
    session.close()
    return taken


def put(path):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(path, arcname="big")
    there = container()
    data = archive.getvalue()
    return timed(lambda: there.put_archive("/", data))[0]


def get():
    there = container()

    def work():
        chunks, _ = there.get_archive("/big")
        return sum(len(chunk) for chunk in chunks)

    taken, size = timed(work)
    assert size >= 256 << 20, size
    return taken


for line in sys.stdin:
    word, *rest = line.split()
    try:
        if word == "ready":
            answer = 0
        elif word == "create":
            answer = create()
        elif word == "put":
            answer = put(*rest)
        else:
            answer = get()
    except Exception as error:  # noqa: BLE001 - the bench prints it as blocked
        answer = f"{type(error).__name__}: {error}".replace("\n", " ")
    print(answer, flush=True)

if kept is not None:
    kept.remove(force=True)
