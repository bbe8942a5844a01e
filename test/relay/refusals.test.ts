/** A flood of refusals fills neither the log nor the memory, and none goes uncounted. */
import { describe, expect, test } from 'bun:test'
import type { CallRecord } from '../../src/domain/billing/index.ts'
import { createRefusals } from '../../src/relay/refusals.ts'

const record = (apiKeyId: number, modelName: string): CallRecord => ({
  requestId: crypto.randomUUID(),
  type: 5,
  createdAtSec: 1,
  userId: 1,
  username: 'u',
  apiKeyId,
  apiKeyName: 'k',
  modelName,
  channelId: 0,
  group: 'default',
  ip: '',
  content: 'refused',
  promptTokens: 0,
  completionTokens: 0,
  useTimeSec: 0,
  isStream: false,
  other: { error_code: 'x' },
  isCounted: false,
})

function opened() {
  const written: CallRecord[] = []
  let nowMs = 120_000_000
  const clock = { now: () => nowMs, monotonic: () => nowMs }
  const refusals = createRefusals({ clock, write: async (row) => void written.push(row) })
  const admit = (times: number, apiKeyId: number, model: string, code = 'model_not_found') =>
    Array.from({ length: times }, () => refusals.admit(record(apiKeyId, model), code)).filter(
      (row) => row !== undefined,
    ).length
  const joined = () => written.map((row) => row.other['refusals_joined'])
  return {
    refusals,
    admit,
    written,
    joined,
    minutePasses() {
      nowMs += 60_000
    },
  }
}

describe('past 60 in a minute, equal refusals of one key', () => {
  test('are joined into one row with their count; other keys, codes and models keep rows of their own', async () => {
    const { refusals, admit, written, joined } = opened()
    expect(admit(100, 1, 'a')).toBe(60)
    expect(admit(10, 2, 'a')).toBe(10)
    expect(admit(10, 1, 'b')).toBe(10)
    expect(admit(10, 1, 'a', 'insufficient_user_quota')).toBe(10)
    await refusals.flush()
    expect(joined()).toEqual([40])
    expect(written[0]).toMatchObject({ apiKeyId: 1, modelName: 'a', other: { error_code: 'x' } })
  })

  test('count anew in the next minute, which writes what the last one joined', async () => {
    const { refusals, admit, joined, minutePasses } = opened()
    admit(61, 1, 'a')
    minutePasses()
    expect(admit(60, 1, 'a')).toBe(60)
    expect(joined()).toEqual([1])
    await refusals.flush()
    expect(joined()).toEqual([1])
  })

  test('of ever new models count as one kind past a hundred, so that a client’s words cannot fill the memory', async () => {
    const { refusals, admit, joined } = opened()
    let rows = 0
    for (let model = 0; model < 10_000; model++) rows += admit(1, 1, `model-${model}`)
    expect(rows).toBe(100 + 60)
    await refusals.flush()
    expect(joined()).toEqual([10_000 - 160])
  })
})
