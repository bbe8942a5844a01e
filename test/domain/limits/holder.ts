/** A process that takes all places of a limit and holds them until it is killed: `holder.ts <redis> <prefix> <limit> <holdMs>`. */
import { createCallLimits, createCounts } from '../../../src/domain/limits/index.ts'
import { systemClock } from '../../../src/lib/clock.ts'
import { silentLog } from '../../../src/lib/log.ts'
import { createMemoryState, openRedisState } from '../../../src/state/index.ts'

const [address = '', prefix = '', limit = '1', holdMs = '1000'] = process.argv.slice(2)
const state = await openRedisState({
  address,
  prefix,
  fallback: createMemoryState({ clock: systemClock, log: silentLog }),
  log: silentLog,
})
const limits = createCallLimits({
  counts: createCounts({ state, share: () => 1, log: silentLog }),
  clock: systemClock,
  holdMs: Number(holdMs),
})
const places = [
  [{ counts: 'concurrency', scope: 'API key', key: 'limit:concurrency:t:1', limit: Number(limit), windowMs: 0 }],
] as const
for (let n = 0; n < Number(limit); n += 1) {
  const { refusal } = await limits.admit(places, { id: crypto.randomUUID(), inputTokens: 0, outputTokens: 0 })
  if (refusal) throw refusal
}
console.log('held')
