/** Probes, alerts and the cluster view know which dependency is away, also one that never answers, and say it once. */
import { expect, test } from 'bun:test'
import { createDependencies } from '../../../src/domain/cluster/index.ts'
import { systemClock } from '../../../src/lib/clock.ts'
import { silentLog } from '../../../src/lib/log.ts'
import { eventually } from '../../support/eventually.ts'

test('refused and black-holed dependencies are away, each alone, told once; and there again when they answer', async () => {
  let mode: 'ok' | 'refused' | 'mute' = 'ok'
  let asked = 0
  const mute = new Set<() => void>()
  const told: string[] = []
  const alerts: string[] = []
  const dependencies = createDependencies({
    list: [
      {
        name: 'database',
        form: () => 'mysql',
        ping: () => {
          asked++
          if (mode === 'refused') return Promise.reject(new Error('connection refused'))
          return mode === 'ok' ? Promise.resolve() : new Promise<void>((resolve) => mute.add(resolve))
        },
      },
      { name: 'Redis', form: () => 'redis', ping: async () => 'PONG' },
    ],
    log: { ...silentLog, warn: (text) => told.push(text), info: (text) => told.push(text) },
    alert: ({ kind, key }) => alerts.push(`${kind} ${key}`),
    clock: systemClock,
    everyMs: 5,
    patienceMs: 30,
  })
  const [database, redis] = [() => dependencies.states()[0]!, () => dependencies.states()[1]!]
  await eventually('it was asked', () => database().latencyMs !== undefined)
  expect(database()).toMatchObject({ name: 'database', form: 'mysql', isUp: true, error: '' })
  mode = 'refused'
  await eventually('it is away', () => !database().isUp)
  expect(database().error).toBe('connection refused')
  const seen = asked
  await eventually('it is asked again and again', () => asked > seen + 3)
  expect(told).toEqual(['a dependency is away'])
  // Alerts are raised as long as it lasts; how often people hear of it is decided there.
  expect(new Set(alerts)).toEqual(new Set(['dependency-down database']))
  mode = 'ok'
  await eventually('it is there again', () => database().isUp)
  mode = 'mute'
  await eventually('silence is absence', () => !database().isUp)
  expect(database().error).toContain('no answer within')
  // A black hole holds one question, not one more every time.
  expect(mute.size).toBe(1)
  expect(redis().isUp).toBe(true)
  mode = 'ok'
  for (const answer of mute) answer()
  await eventually('it is there again', () => database().isUp)
  await dependencies.stop()
  expect(told.filter((text) => text === 'a dependency is away').length).toBe(2)
  expect(told.filter((text) => text === 'a dependency answers again').length).toBe(2)
})
