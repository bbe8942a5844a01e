/** Calls each URL of the arguments, through a proxy if one stands behind a blank, and prints how that went, as JSON. */
import { failure, openClient } from './support.ts'

const client = openClient({ isTlsChecked: true })
const outcomes: unknown[] = []
for (const way of process.argv.slice(2)) {
  const [url = '', proxy = ''] = way.split(' ')
  const call = client.post(url, { proxy, body: 'secret', headers: new Headers({ authorization: 'Bearer secret' }) })
  outcomes.push((await failure(call)).code)
}
client.close()
console.log(JSON.stringify(outcomes))
