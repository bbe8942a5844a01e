/** What was opened is closed, in reverse, whatever fails on the way. */
import { expect, test } from 'bun:test'
import { createLifecycle } from '../../src/lib/lifecycle.ts'
import { type Log, silentLog } from '../../src/lib/log.ts'

test('steps run backwards, one after the other, past one that throws, and the failure is logged with its name', async () => {
  const order: string[] = []
  const failed: unknown[] = []
  const log: Log = { ...silentLog, error: (_msg, fields) => failed.push(fields?.['part']) }
  const lifecycle = createLifecycle(log)
  lifecycle.defer('database', () => order.push('database'))
  lifecycle.defer('broken', () => {
    throw new Error('no')
  })
  lifecycle.defer('slow', async () => {
    await Bun.sleep(5)
    order.push('slow')
  })
  lifecycle.defer('server', () => order.push('server'))
  await lifecycle.stop(1_000)
  expect(order).toEqual(['server', 'slow', 'database'])
  expect(failed).toEqual(['broken'])
})

test('a step that hangs is left behind at the deadline, and the steps behind it still run', async () => {
  const order: string[] = []
  const late: unknown[] = []
  const lifecycle = createLifecycle({ ...silentLog, error: (_msg, fields) => late.push(fields?.['part']) })
  lifecycle.defer('database', (remainingMs) => order.push(`database ${remainingMs >= 1_000}`))
  lifecycle.defer('hanging', () => new Promise(() => {}))
  await lifecycle.stop(10)
  expect(order).toEqual(['database true'])
  expect(late).toEqual(['hanging'])
})

test('a second stop waits for the first and closes nothing twice', async () => {
  let closed = 0
  const lifecycle = createLifecycle(silentLog)
  lifecycle.defer('part', async () => {
    await Bun.sleep(5)
    closed++
  })
  await Promise.all([lifecycle.stop(1_000), lifecycle.stop(1_000)])
  expect(closed).toBe(1)
})

test('a part that opens while the stop is under way is closed at once, so a start that is overtaken leaves nothing open', async () => {
  const lifecycle = createLifecycle(silentLog)
  await lifecycle.stop(1_000)
  const closed = Promise.withResolvers<string>()
  lifecycle.defer('late', () => closed.resolve('closed'))
  expect(await closed.promise).toBe('closed')
})
