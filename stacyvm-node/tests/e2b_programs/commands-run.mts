// commands: run
// prints: ^\{\n  exitCode: 0,\n  error: undefined,\n  stdout: 'total 4\\n-rw-r--r-- 1 user user 5 .* note.txt\\n',\n  stderr: ''\n\}\n$
import { Sandbox } from 'stacyvm/e2b'

const sandbox = await Sandbox.create()
await sandbox.files.write('note.txt', 'hello')
const result = await sandbox.commands.run('ls -l')
console.log(result)
