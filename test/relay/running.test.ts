/** Where the word of who may end a call goes at each stage of it, which no client can time at will. */
import { expect, test } from 'bun:test'
import type { Outcome } from '../../src/domain/limits/index.ts'
import { silentLog } from '../../src/lib/log.ts'
import type { Pump } from '../../src/relay/pump.ts'
import { Running } from '../../src/relay/running.ts'

function started({ drains = false, isGone = false } = {}) {
  const leave = new AbortController()
  if (isGone) leave.abort()
  const heard: string[] = []
  const ended: Outcome[] = []
  const running = new Running(
    'id',
    { signal: leave.signal, hangUp: () => heard.push('hang up'), ended: (outcome) => ended.push(outcome) },
    silentLog,
  )
  running.drains = drains
  const pump: Pump = {
    prime: async () => {},
    body: new ReadableStream(),
    abandon: async () => void heard.push('abandon'),
    interrupt: async (reason) => void heard.push(`interrupt: ${reason}`),
  }
  return { running, pump, heard, ended, leave: () => leave.abort(), hears: (reason: string) => heard.push(reason) }
}

test('a client that left before the call began: each upstream hears of it as soon as it is asked', () => {
  const { running, heard, hears } = started({ isGone: true })
  expect(running.abortedBy()).toBe('client-gone')
  running.open(hears)
  running.open(hears)
  expect(heard).toEqual(['client-gone', 'client-gone'])
})

test('one that leaves while an upstream is asked: the one of this attempt hears of it, once', () => {
  const { running, heard, leave } = started()
  running.open(() => heard.push('first'))
  running.open(() => heard.push('second'))
  leave()
  expect(heard).toEqual(['second'])
  expect(running.abortedBy()).toBe('client-gone')
})

test('the first reason stays', () => {
  const { running, heard, hears, leave } = started()
  running.open(hears)
  running.abort('shutting-down')
  leave()
  expect(heard).toEqual(['shutting-down', 'shutting-down'])
  expect(running.abortedBy()).toBe('shutting-down')
})

test('of a channel that drains nobody hears that the client left, but of a stop', () => {
  const { running, heard, hears, leave } = started({ drains: true })
  running.open(hears)
  leave()
  expect([running.abortedBy(), heard]).toEqual([undefined, []])
  running.abort('shutting-down')
  expect(heard).toEqual(['shutting-down'])
})

test('a stream that is handed over ends by its pump, whenever who ends it came', () => {
  const during = started()
  during.running.open(during.hears)
  during.running.handOver(during.pump)
  expect(during.running.isStreaming).toBe(true)
  during.leave()
  during.running.abort('shutting-down')
  expect(during.heard).toEqual(['abandon', 'interrupt: shutting-down'])

  const before = started()
  before.running.abort('shutting-down')
  before.running.handOver(before.pump)
  expect(before.heard).toEqual(['interrupt: shutting-down'])

  const draining = started({ drains: true })
  draining.leave()
  draining.running.handOver(draining.pump)
  expect(draining.heard).toEqual(['abandon'])
})

test('what has ended hears of nothing, and its caller’s limits hear of it', () => {
  const { running, heard, hears, ended, leave } = started()
  running.open(hears)
  running.billedTokens = 7
  running.close()
  leave()
  expect(heard).toEqual([])
  expect(ended).toEqual([{ isSuccess: true, tokens: 7 }])
})
