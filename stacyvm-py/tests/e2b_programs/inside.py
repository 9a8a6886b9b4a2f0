"""Commands, terminals and files."""

from __future__ import annotations

from . import Program

PROGRAMS = {
    "commands-run": Program("commands", '''
from stacyvm.e2b import Sandbox

sandbox = Sandbox.create()
sandbox.files.write("note.txt", "hello")
result = sandbox.commands.run('ls -l')
print(result)
''', r"^CommandResult\(stderr='', stdout='total 4\\n-rw-r--r-- 1 user user 5 .* note.txt\\n', exit_code=0, error=None\)\n$"),
    "commands-stream": Program("commands/streaming", '''
from stacyvm.e2b import Sandbox

sandbox = Sandbox.create()

result = sandbox.commands.run('echo hello; sleep 0.2; echo world', on_stdout=lambda data: print(data), on_stderr=lambda data: print(data))
print(result)
''', r"^hello\n\nworld\n\nCommandResult\(stderr='', stdout='hello\\nworld\\n', exit_code=0, error=None\)\n$"),
    "commands-background": Program("commands/background", '''
from stacyvm.e2b import Sandbox

sandbox = Sandbox.create()

# Start the command in the background
command = sandbox.commands.run('echo hello; sleep 0.2; echo world >&2', background=True)

# Get stdout and stderr from the command running in the background.
# You can run this code in a separate thread or use command.wait() to wait for the command to finish.
for stdout, stderr, _ in command:
    if stdout:
        print("out", stdout)
    if stderr:
        print("err", stderr)

# Kill the command
print(command.kill())
''', r"^out hello\n\nerr world\n\nFalse\n$"),
    "commands-list": Program("sandbox/commands", '''
from stacyvm.e2b import Sandbox

sandbox = Sandbox.create()

# Start a background process
cmd = sandbox.commands.run("sleep 300", background=True)

# List all running processes
processes = sandbox.commands.list()
for proc in processes:
    print(f"PID: {proc.pid}, Command: {proc.cmd}")

# Kill a process by PID
print(processes[0].pid == cmd.pid, sandbox.commands.kill(processes[0].pid))
print(sandbox.commands.list(), sandbox.commands.kill(processes[0].pid))
''', r"^PID: \d+, Command: /bin/bash\nTrue True\n\[\] False\n$"),
    "commands-error": Program("sdk-reference", '''
from stacyvm.e2b import CommandExitException, Sandbox, SandboxException

sandbox = Sandbox.create()
try:
    sandbox.commands.run("echo one; echo two >&2; exit 3")
except CommandExitException as error:
    print(error.exit_code, error.stdout, error.stderr, error.error, isinstance(error, SandboxException))
''', r"^3 one\n two\n exit status 3 True\n$"),
    "commands-timeout": Program("sdk-reference", '''
from stacyvm.e2b import Sandbox, TimeoutException

sandbox = Sandbox.create()
try:
    sandbox.commands.run("sleep 10", timeout=0.2)
except TimeoutException as error:
    print("timed out", isinstance(error, TimeoutError))
print(sandbox.commands.run("sleep 0.1; echo done", timeout=0).stdout)
''', r"^timed out True\ndone\n\n$"),
    "commands-stdin": Program("sdk-reference", '''
from stacyvm.e2b import Sandbox

sandbox = Sandbox.create()
cmd = sandbox.commands.run("cat", background=True, stdin=True)
sandbox.commands.send_stdin(cmd.pid, "Hello, ")
for stdout, _, _ in cmd:
    print(stdout)
    break
cmd.send_stdin("World!")
sandbox.commands.close_stdin(cmd.pid)
print(cmd.wait())
''', r"^Hello, \nCommandResult\(stderr='', stdout='Hello, World!', exit_code=0, error=None\)\n$"),
    "commands-connect": Program("sdk-reference", '''
from stacyvm.e2b import NotFoundException, Sandbox

sandbox = Sandbox.create()
cmd = sandbox.commands.run("echo one; sleep 0.3; echo two", background=True)
pid = cmd.pid

process_info = Sandbox.connect(sandbox.sandbox_id).commands.connect(pid)
print(process_info.pid == pid)
print(cmd.wait().stdout.split(), process_info.wait().exit_code)
try:
    sandbox.commands.connect(999999)
except NotFoundException:
    print("none")
''', r"^True\n\['one', 'two'\] 0\nnone\n$"),
    "commands-root": Program("sdk-reference", '''
from stacyvm.e2b import Sandbox

sandbox = Sandbox.create()
print(sandbox.commands.run("whoami; pwd", user="root").stdout.split())
print(sandbox.commands.run("whoami; pwd", user="user").stdout.split())
print(sandbox.commands.run("pwd", cwd="/tmp").stdout.split())
print(sandbox.commands.run("shopt -q login_shell && echo login").stdout.split())
''', r"^\['root', '/root'\]\n\['user', '/home/user'\]\n\['/tmp'\]\n\['login'\]\n$"),
    "pty-create": Program("sandbox/pty", '''
from stacyvm.e2b import PtySize, Sandbox

sandbox = Sandbox.create()

terminal = sandbox.pty.create(
    PtySize(cols=80, rows=24),  # Terminal size in characters
    envs={'MY_VAR': 'hello'},  # Optional environment variables
    cwd='/home/user',          # Optional working directory
    user='root',               # Optional user to run as
)

# terminal.pid contains the process ID
print('Terminal PID:', terminal.pid)
sandbox.pty.send_stdin(terminal.pid, b'echo "$MY_VAR $TERM $(pwd) $(id -un)"; exit\\n')
terminal.wait(on_pty=lambda data: print(data.decode(), end=''))
''', r"^Terminal PID: \d+\n.*hello xterm-256color /home/user root\r?\n"),
    "pty-input": Program("sandbox/pty", '''
from stacyvm.e2b import PtySize, Sandbox

sandbox = Sandbox.create()

terminal = sandbox.pty.create(PtySize(cols=80, rows=24), timeout=0)

# Send a command as bytes (b'...' is Python's byte string syntax)
# Don't forget the newline!
sandbox.pty.send_stdin(terminal.pid, b'echo "Hello from $((6 * 7)) PTY"\\n')
for _, _, data in terminal:
    if data:
        print(data.decode(), end='')  # end='' prevents extra newline
        if b"Hello from 42" in data:
            break
''', r"Hello from 42 PTY\r?\n"),
    "pty-resize": Program("sandbox/pty", '''
from stacyvm.e2b import PtySize, Sandbox

sandbox = Sandbox.create()

terminal = sandbox.pty.create(PtySize(cols=80, rows=24))

# Resize to new dimensions (in characters)
sandbox.pty.resize(terminal.pid, PtySize(cols=120, rows=40))
sandbox.pty.send_stdin(terminal.pid, b'stty size; exit\\n')
terminal.wait(on_pty=lambda data: print(data.decode(), end=''))
''', r"\n.*40 120\r?\n"),
    "pty-reconnect": Program("sandbox/pty", '''
import time
from stacyvm.e2b import PtySize, Sandbox

sandbox = Sandbox.create()

# Create a PTY session
terminal = sandbox.pty.create(PtySize(cols=80, rows=24))

pid = terminal.pid

# Send a command
sandbox.pty.send_stdin(pid, b'echo hello\\n')
time.sleep(0.1)

# Disconnect - PTY keeps running in the background
terminal.disconnect()

# Later: reconnect with a new data handler
reconnected = sandbox.pty.connect(pid)

# Continue using the session
sandbox.pty.send_stdin(pid, b'echo world $((1 + 1)); exit\\n')

# Wait for the terminal to exit
reconnected.wait(on_pty=lambda data: print('Handler 2:', data.decode()))
''', r"^Handler 2: .*world 2\r?\n"),
    "pty-kill": Program("sandbox/pty", '''
from stacyvm.e2b import PtySize, Sandbox

sandbox = Sandbox.create()

terminal = sandbox.pty.create(PtySize(cols=80, rows=24))

# Kill the PTY
killed = sandbox.pty.kill(terminal.pid)
print('Killed:', killed)  # True if successful

# Or use the handle method
print(terminal.kill())
''', r"^Killed: True\nFalse\n$"),
    "pty-wait": Program("sandbox/pty", '''
from stacyvm.e2b import PtySize, Sandbox

sandbox = Sandbox.create()

terminal = sandbox.pty.create(PtySize(cols=80, rows=24))

# Send exit command
sandbox.pty.send_stdin(terminal.pid, b'exit\\n')

# Wait for the terminal to exit
result = terminal.wait()
print('Exit code:', result.exit_code)
''', r"^Exit code: 0\n$"),
    "files-read-write": Program("filesystem/read-write", '''
from stacyvm.e2b import NotFoundException, Sandbox

sandbox = Sandbox.create()

sandbox.files.write('/home/user/path/to/file', 'file content')
file_content = sandbox.files.read('/home/user/path/to/file')
print(file_content, sandbox.files.read('path/to/file', format='bytes'))
print(b"".join(sandbox.files.read('~/path/to/file', format='stream')))
try:
    sandbox.files.read('/path/to/nothing')
except NotFoundException as error:
    print("none", isinstance(error, FileNotFoundError))
''', r"^file content bytearray\(b'file content'\)\nb'file content'\nnone True\n$"),
    "files-write-many": Program("filesystem/read-write", '''
from stacyvm.e2b import Sandbox

sandbox = Sandbox.create()

print(sandbox.files.write_files([
    { "path": "/home/user/path/to/a", "data": "file content" },
    { "path": "another/path/to/b", "data": "file content" }
]))
print(sandbox.commands.run("cat path/to/a another/path/to/b").stdout)
''', r"^\[WriteInfo\(name='a', type=<FileType.FILE: 'file'>, path='/home/user/path/to/a', metadata=None\), WriteInfo\(name='b', .* path='/home/user/another/path/to/b', metadata=None\)\]\nfile contentfile content\n$"),
    "files-upload": Program("filesystem/upload", '''
from stacyvm.e2b import Sandbox

sandbox = Sandbox.create()

# Read file from local filesystem
with open("path/to/local/file", "rb") as file:
  # Upload file to sandbox
  sandbox.files.write("/home/user/in/sandbox", file)
print(sandbox.commands.run("cat ~/in/sandbox").stdout)
''', r"^local content\n\n$"),
    "files-upload-directory": Program("filesystem/upload", '''
import os
from stacyvm.e2b import Sandbox

sandbox = Sandbox.create()

def read_directory_files(directory_path):
    files = []

    # Iterate through all files in the directory
    for filename in os.listdir(directory_path):
        file_path = os.path.join(directory_path, filename)

        # Skip if it's a directory
        if os.path.isfile(file_path):
            # Read file contents in binary mode
            with open(file_path, "rb") as file:
                files.append({
                    'path': file_path,
                    'data': file.read()
                })

    return files

files = read_directory_files("local/dir")
sandbox.files.write_files(files)
print(sandbox.commands.run("cd local/dir; head *").stdout)
''', r"==> file1.txt <==\nFile 1 contents...\n+==> file2.txt <==\nFile 2 contents...\n"),
    "files-upload-two": Program("quickstart/upload-download-files", '''
from stacyvm.e2b import Sandbox

sbx = Sandbox.create()

# Read local file relative to the current working directory
with open("local/dir/file1.txt", "rb") as file:
    # Upload file A to the sandbox to absolute path '/home/user/my-file-a'
    sbx.files.write("/home/user/my-file-a", file)

with open("local/dir/file2.txt", "rb") as file:
    # Upload file B to the sandbox to absolute path '/home/user/my-file-b'
    sbx.files.write("/home/user/my-file-b", file)
print([entry.name for entry in sbx.files.list("/home/user")])
''', r"'my-file-a', 'my-file-b'\]\n$"),
    "files-download": Program("filesystem/download", '''
from stacyvm.e2b import Sandbox

sandbox = Sandbox.create()
sandbox.commands.run("echo made inside > my-file")

# Read file from sandbox
content = sandbox.files.read('/home/user/my-file')
# Write file to local filesystem
with open('local/path', 'w') as file:
  file.write(content)
print(open('local/path').read())
''', r"^made inside\n\n$"),
    "files-download-two": Program("quickstart/upload-download-files", '''
from stacyvm.e2b import Sandbox

sbx = Sandbox.create()
sbx.commands.run("echo a > my-file-a; echo b > my-file-b")
# Download file A from the sandbox by absolute path '/home/user/my-file-a'
contentA = sbx.files.read('/home/user/my-file-a')
# Write file A to local path relative to the current working directory
with open('local/a', 'w') as file:
    file.write(contentA)

# Download file B from the sandbox by absolute path '/home/user/my-file-b'
contentB = sbx.files.read('/home/user/my-file-b')
# Write file B to local path relative to the current working directory
with open('local/b', 'w') as file:
    file.write(contentB)
print(open('local/a').read() + open('local/b').read())
''', r"^a\nb\n\n$"),
    "files-info": Program("filesystem/info", '''
from stacyvm.e2b import Sandbox

sandbox = Sandbox.create()

# Create a new file
sandbox.files.write('test_file.txt', 'Hello, world!')

# Get information about the file
info = sandbox.files.get_info('test_file.txt')

print(info)
''', r"^EntryInfo\(name='test_file.txt', type=<FileType.FILE: 'file'>, path='/home/user/test_file.txt', metadata=None, size=13, mode=420, permissions='-rw-r--r--', owner='user', group='user', modified_time=datetime.datetime\(.*\), symlink_target=None\)\n$"),
    "files-info-directory": Program("filesystem/info", '''
from stacyvm.e2b import Sandbox

sandbox = Sandbox.create()

# Create a new directory
print(sandbox.files.make_dir('test_dir'), sandbox.files.make_dir('test_dir'))

# Get information about the directory
info = sandbox.files.get_info('test_dir')

print(info)
''', r"^True False\nEntryInfo\(name='test_dir', type=<FileType.DIR: 'dir'>, path='/home/user/test_dir', .*permissions='drwxr-xr-x', owner='user', group='user', .*symlink_target=None\)\n$"),
    "files-list": Program("quickstart", '''
from stacyvm.e2b import Sandbox

sbx = Sandbox.create()
files = sbx.files.list("/")
print(sorted(file.name for file in files if file.type is not None))
''', r"^\[.*'bin'.*'home'.*'tmp'.*\]\n$"),
    "files-change": Program("sdk-reference", '''
from stacyvm.e2b import Sandbox

sandbox = Sandbox.create()
sandbox.files.write("old.txt", "content")
info = sandbox.files.rename("old.txt", "new.txt")
print(info.path, sandbox.files.exists("old.txt"), sandbox.files.exists("new.txt"))
sandbox.files.remove("new.txt")
sandbox.files.remove("new.txt")
print(sandbox.files.exists("new.txt"))
''', r"^/home/user/new.txt False True\nFalse\n$"),
    "files-watch": Program("filesystem/watch", '''
import time
from stacyvm.e2b import Sandbox, FilesystemEventType

sandbox = Sandbox.create()
dirname = '/home/user'

# Watch directory for changes
handle = sandbox.files.watch_dir(dirname)
# Trigger file write event
sandbox.files.write(f"{dirname}/my-file", "hello")

# Retrieve the latest new events since the last `get_new_events()` call,
# whose delivery may be delayed
events, deadline = [], time.monotonic() + 10
while FilesystemEventType.WRITE not in [event.type for event in events]:
  assert time.monotonic() < deadline, events
  events += handle.get_new_events()
for event in events:
  print(event)
  if event.type == FilesystemEventType.WRITE:
    print(f"wrote to file {event.name}")
''', r"^FilesystemEvent\(name='my-file', type=<FilesystemEventType.CREATE: 'create'>, entry=None\)\n.*wrote to file my-file\n$"),
    "files-watch-recursive": Program("filesystem/watch", '''
import time
from stacyvm.e2b import Sandbox, FilesystemEventType

sandbox = Sandbox.create()
dirname = '/home/user'

# Watch directory for changes
handle = sandbox.files.watch_dir(dirname, recursive=True)
# Trigger file write event
sandbox.files.write(f"{dirname}/my-folder/my-file", "hello")

# Retrieve the latest new events since the last `get_new_events()` call,
# whose delivery may be delayed
events, deadline = [], time.monotonic() + 10
while FilesystemEventType.WRITE not in [event.type for event in events]:
  assert time.monotonic() < deadline, events
  events += handle.get_new_events()
for event in events:
  print(event)
  if event.type == FilesystemEventType.WRITE:
    print(f"wrote to file {event.name}")
''', r"name='my-folder', type=<FilesystemEventType.CREATE: .*wrote to file my-folder/my-file\n$"),
    "v2-write": Program("migration/v2", '''
from stacyvm.e2b import Sandbox

sandbox = Sandbox.create()

# Write single file
info = sandbox.files.write("/tmp/file.txt", "content")

# Write multiple files
infos = sandbox.files.write_files([
    {"path": "/tmp/file1.txt", "data": "content1"},
    {"path": "/tmp/file2.txt", "data": "content2"}
])
print(info.path, [info.path for info in infos])
''', r"^/tmp/file.txt \['/tmp/file1.txt', '/tmp/file2.txt'\]\n$"),
}
