/** That an alert was told is remembered for as long as it matters: one row per event would grow without end. */
import { expect, test } from 'bun:test'
import { eq, or } from 'drizzle-orm'
import { createLeaseRow, type Db } from '../../../src/db/index.ts'
import { createAlerts, pruneAlerts } from '../../../src/domain/notify/index.ts'
import { systemClock } from '../../../src/lib/clock.ts'
import { silentLog } from '../../../src/lib/log.ts'
import { createMemoryState } from '../../../src/state/index.ts'
import { ENGINES } from '../../support/engines.ts'

const DAY_MS = 86_400_000
const OPTIONS = new Map<string, string | number>([
  ['alert_setting.repeat_minutes', 60],
  ['alert_setting.webhook_url', 'http://hook.test/'],
  ['alert_setting.webhook_secret', ''],
  ['alert_setting.email', ''],
])
const hears = Object.assign(async () => new Response('heard'), { preconnect: () => {} })

const alertsTo = (db: Db, receiver: typeof fetch) =>
  createAlerts({
    db,
    state: createMemoryState({ clock: systemClock, log: silentLog }),
    options: { get: (key) => OPTIONS.get(key) as never },
    mailer: { isSet: () => false, send: async () => {} },
    node: 'n',
    fetch: receiver,
    log: silentLog,
    clock: systemClock,
  })

for (const engine of ENGINES)
  test(`what was told more than a day ago is forgotten; leases of jobs stay (${engine.name})`, async () => {
    const testDb = await engine.freshDb()
    const { db } = testDb
    const { leases } = db.tables
    try {
      const alerts = alertsTo(db, hears)
      for (const key of ['old', 'new']) alerts.raise({ kind: 'test', key, text: 'told' })
      await alerts.idle()
      await createLeaseRow(db, { name: 'a job', holder: 'h', ttlMs: 1 }).take()
      const names = async () => (await db.select({ name: leases.name }).from(leases)).map(({ name }) => name).sort()
      const before = await names()
      expect(before).toEqual(expect.arrayContaining(['a job', 'alert:test:new', 'alert:test:old']))
      expect(await pruneAlerts(db)).toBe(0)
      const long = (await db.now()) - 2 * DAY_MS
      await db
        .update(leases)
        .set({ expiresAtMs: long })
        .where(or(eq(leases.name, 'alert:test:old'), eq(leases.name, 'a job')))
      expect(await pruneAlerts(db)).toBe(1)
      expect(await names()).toEqual(before.filter((name) => name !== 'alert:test:old'))
    } finally {
      await testDb.close()
    }
  }, 120_000)

test('two nodes with long names that begin alike are two events, on whatever node each is seen', async () => {
  const testDb = await ENGINES[0]!.freshDb()
  const heard: string[] = []
  const receiver = Object.assign(
    async (_url: unknown, init?: RequestInit) => {
      heard.push((JSON.parse(String(init?.body)) as { key: string }).key)
      return new Response('heard')
    },
    { preconnect: () => {} },
  )
  const names = ['a', 'b'].map((end) => `${'node-of-a-long-name-'.repeat(4)}${end}`)
  try {
    for (const seenBy of [alertsTo(testDb.db, receiver), alertsTo(testDb.db, receiver)]) {
      for (const key of names) seenBy.raise({ kind: 'node-lost', key, text: 'told' })
      await seenBy.idle()
    }
    expect(heard.sort()).toEqual(names)
  } finally {
    await testDb.close()
  }
}, 120_000)
