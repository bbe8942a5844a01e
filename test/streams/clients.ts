/**
 * Program: many clients at once against a gateway. `bun clients.ts <url> <key> <stream|plain> <count>`. Prints `open` when
 * each stream has its first bytes, and in the end how many answers were whole, and what was wrong with the first others.
 */
import { FRAMES, PLAIN_MODEL, STREAM_MODEL } from './script.ts'

const [url = '', apiKey = '', kind = '', countText = ''] = process.argv.slice(2)
const count = Number(countText)
const isStream = kind === 'stream'
/** Connections opened within one turn; more at once would only fill the listener's queue. */
const WAVE = 50

const wrong: string[] = []
const expected = new TextEncoder().encode(FRAMES.join(''))
let open = 0
let whole = 0

async function call(): Promise<void> {
  const reply = await fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { authorization: `Bearer ${apiKey}`, 'content-type': 'application/json' },
    body: JSON.stringify({
      model: isStream ? STREAM_MODEL : PLAIN_MODEL,
      max_tokens: 50,
      messages: [{ role: 'user', content: 'Speak slowly.' }],
      ...(isStream && { stream: true, stream_options: { include_usage: true } }),
    }),
  })
  if (reply.status !== 200) throw new Error(`${reply.status} ${await reply.text()}`)
  if (!isStream) {
    await reply.json()
    return
  }
  let at = 0
  for await (const part of reply.body as ReadableStream<Uint8Array>) {
    if (at === 0 && ++open === count) console.log('open')
    if (!Buffer.from(part).equals(expected.subarray(at, at + part.length)))
      throw new Error(`other bytes from ${at} on: ${Buffer.from(part)}`)
    at += part.length
  }
  if (at !== expected.length) throw new Error(`${at} of ${expected.length} bytes`)
}

const calls: Promise<void>[] = []
for (let started = 0; started < count; started++) {
  calls.push(
    call().then(
      () => {
        whole += 1
      },
      (error: unknown) => void wrong.push(String(error)),
    ),
  )
  if (started % WAVE === WAVE - 1) await Bun.sleep(20)
}
await Promise.all(calls)
console.log(JSON.stringify({ whole, wrong: wrong.length, first: wrong.slice(0, 3) }))
process.exit(0)
