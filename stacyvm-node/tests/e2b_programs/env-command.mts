// sandbox/environment-variables: of a command
// prints: ^123\n my_value\n\n$
import { Sandbox } from 'stacyvm/e2b'

const sandbox = await Sandbox.create({ envs: { MY_VAR: 'my_value' } })
const result = await sandbox.commands.run('echo $MY_VAR', {
  envs: {
    MY_VAR: '123',
  },
})
console.log(result.stdout, (await sandbox.commands.run('echo $MY_VAR')).stdout)
