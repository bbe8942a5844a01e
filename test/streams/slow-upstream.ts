/**
 * Program: an upstream that speaks slowly to thousands at once. Prints its address; on a line `stats` from standard input it
 * prints how many answers are under way, and were at most since the last one.
 */
import { startUpstream } from '../support/upstream.ts'
import { FRAMES, PACE_MS, PLAIN_DELAY_MS, PLAIN_MODEL, STREAM_MODEL } from './script.ts'

const SAMPLE_MS = 20

const upstream = startUpstream({ isRecording: false })
upstream.on(STREAM_MODEL, { paceMs: PACE_MS, raw: { contentType: 'text/event-stream; charset=utf-8', parts: FRAMES } })
upstream.on(PLAIN_MODEL, { delayMs: PLAIN_DELAY_MS })
let most = 0
setInterval(() => {
  most = Math.max(most, upstream.active())
}, SAMPLE_MS)
console.log(upstream.url)
for await (const line of console) {
  if (line !== 'stats') continue
  console.log(JSON.stringify({ now: upstream.active(), most }))
  most = 0
}
// Whoever asked is gone.
process.exit(0)
