"""Sandboxes: their lives, lists, labels, variables."""

from __future__ import annotations

from . import Program

PROGRAMS = {
    "lifecycle-timeout": Program("sandbox", '''
from stacyvm.e2b import Sandbox

# Create sandbox with and keep it running for 60 seconds.
# Note: The units are seconds.
sandbox = Sandbox.create(
  timeout=60,
)
info = sandbox.get_info()
print(round((info.end_at - info.started_at).total_seconds()))
''', r"^60\n$"),
    "lifecycle-default-timeout": Program("sandbox", '''
from stacyvm.e2b import Sandbox

sbx = Sandbox.create() # By default the sandbox is alive for 5 minutes
info = sbx.get_info()
print(round((info.end_at - info.started_at).total_seconds()))
''', r"^300\n$"),
    "lifecycle-set-timeout": Program("sandbox", '''
from datetime import datetime, timezone
from stacyvm.e2b import Sandbox

# Create sandbox with and keep it running for 60 seconds.
sandbox = Sandbox.create(timeout=60)

# Change the sandbox timeout to 30 seconds.
# The new timeout will be 30 seconds from now.
sandbox.set_timeout(30)
print(round((sandbox.get_info().end_at - datetime.now(timezone.utc)).total_seconds()))

# By the sandbox's id
Sandbox.set_timeout(sandbox.sandbox_id, 90)
print(round((Sandbox.get_info(sandbox.sandbox_id).end_at - datetime.now(timezone.utc)).total_seconds()))
''', r"^30\n90\n$"),
    "lifecycle-info": Program("sandbox", '''
from stacyvm.e2b import Sandbox

# Create sandbox with and keep it running for 60 seconds.
sandbox = Sandbox.create(timeout=60)

# Retrieve sandbox information.
info = sandbox.get_info()

print(info)
''', r"^SandboxInfo\(sandbox_id='s\w+', .*name='host', metadata=\{\}, started_at=datetime.datetime\(.*end_at=datetime.datetime\(.*state=<SandboxState.RUNNING: 'running'>"),
    "lifecycle-kill": Program("sandbox", '''
from stacyvm.e2b import Sandbox

# Create sandbox with and keep it running for 60 seconds.
sandbox = Sandbox.create(timeout=60)

# Shutdown the sandbox immediately.
print(sandbox.kill())
print(sandbox.kill(), Sandbox.kill("sbx-unknown"))
''', r"^True\nFalse False\n$"),
    "lifecycle-is-running": Program("sdk-reference", '''
from stacyvm.e2b import Sandbox

sandbox = Sandbox.create()
print(sandbox.is_running()) # Returns True

sandbox.kill()
print(sandbox.is_running()) # Returns False
''', r"^True\nFalse\n$"),
    "readme-hello": Program("README", '''
from stacyvm.e2b import Sandbox

with Sandbox.create() as sandbox:
    result = sandbox.commands.run('echo "Hello from E2B!"')
    print(result.stdout)  # Hello from E2B!
print(sandbox.is_running())
''', r"^Hello from E2B!\n\nFalse\n$"),
    "connect-id": Program("sandbox/connect", '''
from stacyvm.e2b import Sandbox

sbx = Sandbox.create()

# Get all running sandboxes
paginator = Sandbox.list()

# Get the ID of the sandbox you want to connect to
running_sandboxes = paginator.next_items()
if len(running_sandboxes) == 0:
    raise Exception("No running sandboxes found")

# Get the ID of the sandbox you want to connect to
sandbox_id = running_sandboxes[0].sandbox_id
print(sandbox_id == sbx.sandbox_id)
''', r"^True\n$"),
    "connect-whoami": Program("sandbox/connect", '''
from stacyvm.e2b import Sandbox

sandbox_id = Sandbox.create().sandbox_id

sandbox = Sandbox.connect(sandbox_id)

# Now you can use the sandbox as usual
# ...
r = sandbox.commands.run("whoami")
print(f"Running in sandbox {sandbox.sandbox_id} as \\"{r.stdout.strip()}\\"")
''', r'^Running in sandbox s\w+ as "user"\n$'),
    "connect-timeout": Program("sandbox/persistence", '''
from datetime import datetime, timezone
from stacyvm.e2b import Sandbox

sandbox_id = Sandbox.create(timeout=10).sandbox_id

sbx = Sandbox.connect(sandbox_id, timeout=60) # 60 seconds
print(round((sbx.get_info().end_at - datetime.now(timezone.utc)).total_seconds()))

# For running sandboxes, the timeout will update only if the new timeout is longer
sbx = Sandbox.connect(sandbox_id, timeout=20)
print(round((sbx.get_info().end_at - datetime.now(timezone.utc)).total_seconds()))
''', r"^60\n60\n$"),
    "env-default": Program("sandbox/environment-variables", '''
from stacyvm.e2b import Sandbox

sandbox = Sandbox.create()
result = sandbox.commands.run("echo $E2B_SANDBOX_ID")
print(result.stdout.strip() == sandbox.sandbox_id)
print(sandbox.commands.run("echo $E2B_SANDBOX $E2B_TEMPLATE_ID").stdout)
''', r"^True\ntrue base\n\n$"),
    "env-global": Program("sandbox/environment-variables", '''
from stacyvm.e2b import Sandbox

sandbox = Sandbox.create(
  envs={
    'MY_VAR': 'my_value',
  },
)
print(sandbox.commands.run('echo $MY_VAR').stdout)
print(Sandbox.connect(sandbox.sandbox_id).commands.run('echo $MY_VAR').stdout)
''', r"^my_value\n\nmy_value\n\n$"),
    "env-command": Program("sandbox/environment-variables", '''
from stacyvm.e2b import Sandbox

sandbox = Sandbox.create(envs={'MY_VAR': 'my_value'})
result = sandbox.commands.run(
    'echo $MY_VAR',
    envs={
        'MY_VAR': '123'
    }
)
print(result.stdout, sandbox.commands.run('echo $MY_VAR').stdout)
''', r"^123\n my_value\n\n$"),
    "list-first": Program("sandbox/list", '''
from stacyvm.e2b import Sandbox, SandboxInfo

sandbox = Sandbox.create(
    metadata={
        "name": "My Sandbox",
    },
)

paginator = Sandbox.list()

# Get the first page of sandboxes (running and paused)
firstPage = paginator.next_items()

running_sandbox = firstPage[0]

print('Running sandbox metadata:', running_sandbox.metadata)
print('Running sandbox id:', running_sandbox.sandbox_id)
print('Running sandbox started at:', running_sandbox.started_at)
print('Running sandbox template id:', running_sandbox.template_id)
''', r"^Running sandbox metadata: \{'name': 'My Sandbox'\}\nRunning sandbox id: s\w+\nRunning sandbox started at: \d{4}-\d\d-\d\d [\d:.]+\+00:00\nRunning sandbox template id: host\n$"),
    "list-state": Program("sandbox/list", '''
from stacyvm.e2b import Sandbox, SandboxQuery, SandboxState

# Create a sandbox with metadata.
sandbox = Sandbox.create()

# List sandboxes that are running or paused.
paginator = Sandbox.list(
    query=SandboxQuery(
        state=[SandboxState.RUNNING, SandboxState.PAUSED],
    ),
)

# Get the first page of sandboxes (running and paused)
sandboxes = paginator.next_items()
print([item.sandbox_id == sandbox.sandbox_id for item in sandboxes])
''', r"^\[True\]\n$"),
    "list-metadata": Program("sandbox/list", '''
from stacyvm.e2b import Sandbox, SandboxQuery, SandboxState

other = Sandbox.create(metadata={"env": "prod", "userId": "123"})

# Create sandbox with metadata.
sandbox = Sandbox.create(
    metadata={
        "env": "dev",
        "app": "my-app",
        "userId": "123",
    },
)

# List running sandboxes that has `userId` key with value `123` and `env` key with value `dev`.
paginator = Sandbox.list(
    query=SandboxQuery(
        metadata={
            "userId": "123",
            "env": "dev",
        }
    ),
)

# Get the first page of sandboxes (running and paused)
sandboxes = paginator.next_items()
print([item.metadata["app"] for item in sandboxes])
''', r"^\['my-app'\]\n$"),
    "list-token": Program("sandbox/list", '''
from stacyvm.e2b import Sandbox

made = [Sandbox.create().sandbox_id for _ in range(3)]
first = Sandbox.list(limit=2)
newest = [item.sandbox_id for item in first.next_items()]

paginator = Sandbox.list(
    limit=100,
    next_token=first.next_token,
)

print(paginator.has_next)  # Whether there is a next page
print(len(paginator.next_token))  # Next page token

# Fetch the next page
oldest = [item.sandbox_id for item in paginator.next_items()]
print(newest + oldest == made[::-1], paginator.has_next, paginator.next_token)
''', r"^True\n\d+\nTrue False None\n$"),
    "list-loop": Program("sandbox/list", '''
from stacyvm.e2b import Sandbox, SandboxInfo, SandboxQuery

made = [Sandbox.create() for _ in range(3)]
paginator = Sandbox.list(limit=2)

# Loop through all pages
sandboxes: list[SandboxInfo] = []
while paginator.has_next:
    items = paginator.next_items()
    sandboxes.extend(items)
print(len(sandboxes))
''', r"^3\n$"),
    "metadata": Program("sandbox/metadata", '''
from stacyvm.e2b import Sandbox

# Create sandbox with metadata.
sandbox = Sandbox.create(
  metadata={
    'userId': '123',
  },
)

# List running sandboxes and access metadata.
paginator = Sandbox.list()
running_sandboxes = paginator.next_items()
# Will print:
# {
#   'userId': '123',
# }
print(running_sandboxes[0].metadata)
''', r"^\{'userId': '123'\}\n$"),
    "metrics": Program("sandbox/metrics", '''
from time import sleep
from stacyvm.e2b import Sandbox

sbx = Sandbox.create()
print('Sandbox created', sbx.sandbox_id)

# Wait for a few seconds to collect some metrics
sleep(0.2)

metrics = sbx.get_metrics()

# You can also get the metrics by sandbox ID:
same = Sandbox.get_metrics(sbx.sandbox_id)

print('Sandbox metrics', metrics)
print(same[0].mem_used > 0)
''', r"^Sandbox created s\w+\nSandbox metrics \[SandboxMetrics\(cpu_count=\d+, cpu_used_pct=[\d.]+, .*mem_total=\d{9,}, mem_used=\d{5,},.*\)\]\nTrue\n$"),
    "pause": Program("sandbox/persistence", '''
from stacyvm.e2b import Sandbox

sbx = Sandbox.create()
print('Sandbox created', sbx.sandbox_id)

# Pause the sandbox
# You can save the sandbox ID in your database to resume the sandbox later
print(sbx.pause(), sbx.pause())
print('Sandbox paused', sbx.get_info().state)
''', r"^Sandbox created s\w+\nTrue False\nSandbox paused paused\n$"),
    "pause-connect": Program("sandbox/persistence", '''
from stacyvm.e2b import Sandbox

sbx = Sandbox.create()
print('Sandbox created', sbx.sandbox_id)
process = sbx.commands.run("sleep 0.5; echo went on", background=True)

# Pause the sandbox
# You can save the sandbox ID in your database to resume the sandbox later
sbx.beta_pause()
print('Sandbox paused', sbx.sandbox_id)

# Connect to the sandbox (it will automatically resume the sandbox, if paused)
same_sbx = sbx.connect()
print('Connected to the sandbox', same_sbx.sandbox_id)
print(process.wait().stdout, same_sbx.is_running())
''', r"^Sandbox created (s\w+)\nSandbox paused \1\nConnected to the sandbox \1\nwent on\n True\n$"),
    "pause-states": Program("sandbox/persistence", '''
from stacyvm.e2b import Sandbox

sandbox = Sandbox.create()  # Starts in Running state

# Pause the sandbox
sandbox.pause()  # Running -> Paused

# Resume the sandbox
sandbox.connect()  # Running/Paused -> Running
print(sandbox.commands.run("echo resumed").stdout)

# Kill the sandbox (from any state)
sandbox.kill()  # Running/Paused -> Killed
''', r"^resumed\n\n$"),
    "pause-list": Program("sandbox/persistence", '''
# List all paused sandboxes
from stacyvm.e2b import Sandbox, SandboxQuery, SandboxState

running, paused = Sandbox.create(), Sandbox.create()
Sandbox.pause(paused.sandbox_id)

paginator = Sandbox.list(SandboxQuery(state=[SandboxState.PAUSED]))

# Get the first page of paused sandboxes
sandboxes = paginator.next_items()

# Get all paused sandboxes
while paginator.has_next:
  items = paginator.next_items()
  sandboxes.extend(items)
print([item.sandbox_id for item in sandboxes] == [paused.sandbox_id])
''', r"^True\n$"),
    "pause-kill": Program("sandbox/persistence", '''
from stacyvm.e2b import Sandbox

sbx = Sandbox.create()

# Pause the sandbox
sbx.pause()

# Remove the sandbox
print(sbx.kill())

# Remove sandbox by id
print(Sandbox.kill(sbx.sandbox_id))
''', r"^True\nFalse\n$"),
    "secure-false": Program("sandbox/secured-access", '''
from stacyvm.e2b import Sandbox

sandbox = Sandbox.create(secure=False)  # Explicitly disable
print(sandbox.is_running())
''', r"^True\n$"),
    "internet-off": Program("sandbox/internet-access", '''
from stacyvm.e2b import CommandExitException, Sandbox

# Create sandbox without internet access
isolated_sandbox = Sandbox.create(allow_internet_access=False)
try:
    isolated_sandbox.commands.run("exec 3<>/dev/tcp/1.1.1.1/53")
except CommandExitException as error:
    print(error.exit_code, error.stderr)
''', r"^1 .*Network is unreachable\n"),
    "internet-deny-all": Program("sandbox/internet-access", '''
from stacyvm.e2b import Sandbox, ALL_TRAFFIC

# Deny all outbound traffic
sandbox = Sandbox.create(
    network={
        "deny_out": [ALL_TRAFFIC]
    }
)
print(sandbox.commands.run("grep -v face /proc/net/dev | cut -d: -f1 | grep -v Receive").stdout.split())
''', r"^\['lo'\]\n$"),
    "internet-deny-callable": Program("network/internet-access", '''
from stacyvm.e2b import Sandbox

# Block all egress
sandbox = Sandbox.create(network={"deny_out": lambda ctx: [ctx.all_traffic]})
print(sandbox.is_running())
''', r"^True\n$"),
    "v2-create": Program("migration/v2", '''
from stacyvm.e2b import Sandbox

sandbox = Sandbox.create()
sandbox = Sandbox.create(template="base")
print(sandbox.commands.run("pwd").stdout)
''', r"^/home/user\n\n$"),
    "v2-list": Program("migration/v2", '''
from stacyvm.e2b import Sandbox, SandboxQuery

Sandbox.create(metadata={"key": "value"}), Sandbox.create()

# Get paginator
paginator = Sandbox.list()

# Iterate through all sandboxes
while paginator.has_next:
    sandboxes = paginator.next_items()
    print(len(sandboxes))

# With query
paginator = Sandbox.list(query=SandboxQuery(metadata={"key": "value"}))
print(len(paginator.next_items()))
''', r"^2\n1\n$"),
}
