// sandbox/internet-access: deny all traffic
// prints: ^\[ 'lo' \]\n$
import { Sandbox, ALL_TRAFFIC } from 'stacyvm/e2b'

// Deny all outbound traffic
const sandbox = await Sandbox.create({
  network: {
    denyOut: [ALL_TRAFFIC]
  }
})
const result = await sandbox.commands.run('grep -v face /proc/net/dev | cut -d: -f1 | grep -v Receive')
console.log(result.stdout.trim().split(/\s+/))
