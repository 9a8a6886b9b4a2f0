// sandbox/environment-variables: of a sandbox
// prints: ^my_value\n\nmy_value\n\n$
import { Sandbox } from 'stacyvm/e2b'

const sandbox = await Sandbox.create({
  envs: {
    MY_VAR: 'my_value',
  },
})
console.log((await sandbox.commands.run('echo $MY_VAR')).stdout)
const same = await Sandbox.connect(sandbox.sandboxId)
console.log((await same.commands.run('echo $MY_VAR')).stdout)
