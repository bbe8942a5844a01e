import { afterAll, afterEach, beforeAll, describe, expect, test } from 'bun:test'
import { eq } from 'drizzle-orm'
import { bumpTopic, type Db, DbError } from '../../../src/db/index.ts'
import { type Authenticator, createAuthenticator } from '../../../src/domain/accounts/authenticate.ts'
import { GatewayError } from '../../../src/errors.ts'
import { silentLog } from '../../../src/lib/log.ts'
import { createTestNode, type TestClock, type TestNode, testClock } from '../../admin/harness.ts'
import { ENGINES, type TestDb } from '../../support/engines.ts'
import { eventually } from '../../support/eventually.ts'

type KeyInsert = Db['tables']['tokens']['$inferInsert']
type UserInsert = Db['tables']['users']['$inferInsert']

const IP = '203.0.113.5'
const FRESH_MS = 60_000
const LEASE_MS = 90_000
let made = 0

/** A query whose result arrives late: what `after` awaits happens between the reading and the answer. */
function late<T extends object>(query: T, after: () => Promise<void>): T {
  return new Proxy(query, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name)
      if (name === 'then') {
        return (...settle: Parameters<Promise<unknown>['then']>) =>
          Promise.resolve(target)
            .then(async (rows) => {
              await after()
              return rows
            })
            .then(...settle)
      }
      if (typeof value !== 'function') return value
      return (...args: unknown[]) => late(Reflect.apply(value, target, args) as object, after)
    },
  })
}

/** The same database, with something that happens at each read. */
const watched = (db: Db, hooks: { readonly before?: () => void; readonly after?: () => Promise<void> }): Db => ({
  ...db,
  select: ((...fields: Parameters<Db['select']>) => {
    hooks.before?.()
    return late(db.select(...fields), hooks.after ?? (async () => {}))
  }) as Db['select'],
})

async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work
    return 'accepted'
  } catch (error) {
    if (error instanceof GatewayError) return `${error.status} ${error.code}`
    throw error
  }
}

for (const engine of ENGINES) {
  describe(`authentication by API key on ${engine.name}`, () => {
    let testDb: TestDb
    let db: Db
    let node: TestNode
    let clock: TestClock
    const open: Authenticator[] = []

    beforeAll(async () => {
      testDb = await engine.freshDb()
      db = testDb.db
      clock = testClock()
      node = await createTestNode(db)
    }, 120_000)
    afterEach(() => {
      for (const authenticator of open.splice(0)) authenticator.close()
    })
    afterAll(async () => {
      await node.close()
      await testDb.close()
    })

    const authenticator = (over: Db = db, maxEntries?: number): Authenticator => {
      const { topics, options } = node
      const made = createAuthenticator({
        db: over,
        topics,
        options,
        log: silentLog,
        clock,
        freshMs: FRESH_MS,
        leaseMs: LEASE_MS,
        ...(maxEntries && { maxEntries }),
      })
      open.push(made)
      return made
    }

    const newKey = async (key: Partial<KeyInsert> = {}, user: Partial<UserInsert> = {}) => {
      made++
      const userId = await db.insertId(db.tables.users, {
        username: `auth${made}`,
        password: '',
        role: 1,
        status: 1,
        group: 'default',
        affCode: `a${made}`,
        ...user,
      })
      const text = key.key ?? `Key${String(made).padStart(4, '0')}${'x'.repeat(41)}`
      const id = await db.insertId(db.tables.tokens, {
        userId,
        name: `key ${made}`,
        status: 1,
        expiredTime: -1,
        unlimitedQuota: true,
        ...key,
        key: text,
      })
      return { id, userId, key: text, username: `auth${made}` }
    }
    const change = async (topic: string, work: (tx: Db) => PromiseLike<unknown>): Promise<void> => {
      await db.transaction(async (tx) => {
        await work(tx)
        await bumpTopic(tx, topic)
      })
      await node.topics.changed(topic)
    }
    const disable = (id: number): Promise<void> =>
      change('api-keys', (tx) => tx.update(tx.tables.tokens).set({ status: 2 }).where(eq(tx.tables.tokens.id, id)))

    test('a caller is who the key belongs to, with what the key allows', async () => {
      const made = await newKey(
        {
          unlimitedQuota: false,
          modelLimitsEnabled: true,
          modelLimits: 'gpt-4o, claude-3',
          crossGroupRetry: true,
          rpmLimit: 60,
        },
        { setting: '{"record_ip_log":true,"accept_unset_model_ratio_model":true}', role: 10 },
      )
      const caller = await authenticator().authenticate(`sk-${made.key}`, () => IP)
      expect(caller).toEqual({
        userId: made.userId,
        username: made.username,
        role: 10,
        userGroup: 'default',
        apiKeyId: made.id,
        apiKeyName: `key ${Number(made.username.slice(4))}`,
        tokenGroup: '',
        groups: ['default'],
        isAuto: false,
        crossGroupRetry: true,
        payer: { userId: made.userId, apiKeyId: made.id, isUnlimitedKey: false },
        modelLimits: new Set(['gpt-4o', 'claude-3']),
        acceptsUnpriced: true,
        recordsIp: true,
        forcedChannelId: undefined,
        limits: [
          [
            {
              counts: 'requests',
              scope: 'API key',
              key: `limit:rpm:t:${made.id}`,
              limit: 60,
              windowMs: 60_000,
            },
          ],
        ],
        ip: IP,
      })
    })

    test('status, expiry and deletion decide; an exhausted key passes, since only the ledger knows the balance', async () => {
      const { authenticate } = authenticator()
      const pastSec = Math.floor(clock.now() / 1000) - 1
      const codes = async (key: Partial<KeyInsert>, user: Partial<UserInsert> = {}) =>
        codeOf(authenticate((await newKey(key, user)).key, () => IP))
      expect(await codes({})).toBe('accepted')
      expect(await codes({ status: 4, remainQuota: -5, unlimitedQuota: false })).toBe('accepted')
      expect(await codes({ expiredTime: pastSec + 100 })).toBe('accepted')
      expect(await codes({ status: 2 })).toBe('401 invalid_api_key')
      expect(await codes({ status: 3 })).toBe('401 invalid_api_key')
      expect(await codes({ expiredTime: pastSec })).toBe('401 invalid_api_key')
      expect(await codes({ deletedAt: new Date() })).toBe('401 invalid_api_key')
      expect(await codes({}, { deletedAt: new Date() })).toBe('401 invalid_api_key')
      expect(await codes({}, { status: 2 })).toBe('403 access_denied')
      expect(await codeOf(authenticate('sk-nobody', () => IP))).toBe('401 invalid_api_key')
      expect(await codeOf(authenticate('', () => IP))).toBe('401 invalid_api_key')
    })

    test('an entry in memory expires with its key', async () => {
      const { authenticate } = authenticator()
      const { key } = await newKey({ expiredTime: Math.floor(clock.now() / 1000) + 30 })
      expect(await codeOf(authenticate(key, () => IP))).toBe('accepted')
      clock.advance(31_000)
      expect(await codeOf(authenticate(key, () => IP))).toBe('401 invalid_api_key')
    })

    test('a key is compared exactly, whatever the collation finds, in any order of asking', async () => {
      const { authenticate } = authenticator()
      const { key } = await newKey({ key: 'MixedCaseKey' })
      const near = ['mixedcasekey', 'MIXEDCASEKEY', 'MixedCaseKey ', 'MixedCaseKey  ', ' MixedCaseKey', 'MixedCaseKéy']
      for (const other of near) expect(await codeOf(authenticate(other, () => IP))).toBe('401 invalid_api_key')
      expect(await codeOf(authenticate(key, () => IP))).toBe('accepted')
      for (const other of near) expect(await codeOf(authenticate(other, () => IP))).toBe('401 invalid_api_key')
    })

    test('keys with a common beginning are different callers', async () => {
      const { authenticate } = authenticator()
      const common = 'c'.repeat(47)
      const one = await newKey({ key: `${common}1` })
      const two = await newKey({ key: `${common}2` })
      expect((await authenticate(one.key, () => IP)).apiKeyId).toBe(one.id)
      expect((await authenticate(two.key, () => IP)).apiKeyId).toBe(two.id)
      expect(await codeOf(authenticate(common, () => IP))).toBe('401 invalid_api_key')
      expect(await codeOf(authenticate(`${common}12`, () => IP))).toBe('401 invalid_api_key')
    })

    test('SQL, patterns and rubbish in a credential are unknown keys and change nothing', async () => {
      const { authenticate } = authenticator()
      const before = await db.$count(db.tables.tokens)
      const hostile = [
        "' or '1'='1",
        "x' or 1=1 #",
        `" or ""="`,
        "'; drop table tokens; -- ",
        "' union select * from users -- ",
        '%',
        '_'.repeat(48),
        '\\',
        "\\' or 1=1",
        '\u0000',
        `${'K'}\u0000`,
        'x'.repeat(128),
        'x'.repeat(129),
        'x'.repeat(100_000),
        '键'.repeat(48),
        '🔑',
        '\ud800',
        '[object Object]',
        '{"$ne":null}',
        '{{7*7}}',
        'sk-sk-sk-',
        '-',
        '--',
        'null',
        'undefined',
      ]
      for (const text of hostile) expect(await codeOf(authenticate(text, () => IP))).toBe('401 invalid_api_key')
      expect(await db.$count(db.tables.tokens)).toBe(before)
    })

    test('an allow-list admits its addresses and networks, and no others', async () => {
      const { authenticate } = authenticator()
      const { key } = await newKey({ allowIps: '10.1.2.3\n192.168.0.0/16, 2001:db8::/32' })
      const from = (ip: string): Promise<string> => codeOf(authenticate(key, () => ip))
      expect(await from('10.1.2.3')).toBe('accepted')
      expect(await from('192.168.77.1')).toBe('accepted')
      expect(await from('2001:db8::9')).toBe('accepted')
      expect(await from('10.1.2.4')).toBe('403 access_denied')
      expect(await from('2001:db9::1')).toBe('403 access_denied')
      expect(await from('')).toBe('403 access_denied')
      const unreadable = await newKey({ allowIps: 'not an address' })
      expect(await codeOf(authenticate(unreadable.key, () => IP))).toBe('403 access_denied')
      const open = await newKey({ allowIps: null })
      expect(await codeOf(authenticate(open.key, () => IP))).toBe('accepted')
    })

    test('a group must be open to the user and exist; auto is expanded; a change of the options counts at once', async () => {
      const { authenticate } = authenticator()
      await node.options.set({
        UserUsableGroups: '{"default":"d","vip":"v","auto":"a","ghost":"g"}',
        GroupRatio: '{"default":1,"vip":2,"closed":1}',
        AutoGroups: '["vip","closed","default"]',
      })
      const of = async (group: string, more: Partial<KeyInsert> = {}) => (await newKey({ group, ...more })).key
      expect((await authenticate(await of('vip'), () => IP)).groups).toEqual(['vip'])
      expect(await codeOf(authenticate(await of('closed'), () => IP))).toBe('403 access_denied')
      expect(await codeOf(authenticate(await of('ghost'), () => IP))).toBe('403 access_denied')
      const auto = await of('auto')
      expect(await authenticate(auto, () => IP)).toMatchObject({
        groups: ['vip', 'default'],
        isAuto: true,
        tokenGroup: 'auto',
      })
      const own = await of('auto', { autoGroups: '["default","closed"]' })
      expect((await authenticate(own, () => IP)).groups).toEqual(['default'])
      await node.options.set({ AutoGroups: '["default"]' })
      expect((await authenticate(auto, () => IP)).groups).toEqual(['default'])
      await node.options.set({ UserUsableGroups: '{"default":"d","vip":"v"}' })
      expect(await codeOf(authenticate(auto, () => IP))).toBe('403 access_denied')
    })

    test('only administrators choose a channel by the suffix', async () => {
      const { authenticate } = authenticator()
      const user = await newKey()
      const admin = await newKey({}, { role: 10 })
      expect(await codeOf(authenticate(`sk-${user.key}-7`, () => IP))).toBe('403 access_denied')
      expect((await authenticate(`sk-${user.key}`, () => IP)).forcedChannelId).toBeUndefined()
      expect((await authenticate(`sk-${admin.key}-7`, () => IP)).forcedChannelId).toBe(7)
      expect(await codeOf(authenticate(`sk-${admin.key}-x`, () => IP))).toBe('400 invalid_request')
    })

    test('calls of a key share their caller until the key or the options change; an address and a chosen channel are of one call', async () => {
      const { authenticate } = authenticator()
      const made = await newKey({}, { role: 10 })
      const call = (more = '', ip = IP) => authenticate(`sk-${made.key}${more}`, () => ip)
      const first = await call()
      expect(await call()).toBe(first)
      expect(await call('-7')).toEqual({ ...first, forcedChannelId: 7 })
      expect(await call()).toBe(first)
      expect(first).toMatchObject({ forcedChannelId: undefined, ip: '' })
      await node.options.set({ GroupLimits: '{"default":{"rpm":5}}' })
      const limited = await call()
      expect([first.limits, limited.limits?.flat().map(({ limit }) => limit)]).toEqual([undefined, [5]])
      await node.options.set({ GroupLimits: '{}' })
      const { tokens, users } = db.tables
      // Another funding: the ledger remembers the accounts of a caller.
      await change('api-keys', (tx) => tx.update(tokens).set({ unlimitedQuota: false }).where(eq(tokens.id, made.id)))
      expect([limited.payer.isUnlimitedKey, (await call()).payer.isUnlimitedKey]).toEqual([true, false])
      const setting = '{"record_ip_log":true}'
      await change('users', (tx) => tx.update(users).set({ setting }).where(eq(users.id, made.userId)))
      expect((await call('', '203.0.113.6')).ip).toBe('203.0.113.6')
      expect((await call('-7', '203.0.113.7')).ip).toBe('203.0.113.7')
    })

    test('a key that is known costs no read, and parallel first calls share one', async () => {
      let reads = 0
      const { authenticate, size } = authenticator(watched(db, { before: () => reads++ }), 3)
      const { key } = await newKey()
      await Promise.all(Array.from({ length: 50 }, () => authenticate(key, () => IP)))
      await authenticate(`sk-${key}`, () => IP)
      expect(reads).toBe(1)
      for (let i = 0; i < 10; i++) await authenticate((await newKey()).key, () => IP)
      expect(size()).toBe(3)
    })

    test('unknown keys leave nothing in memory', async () => {
      const { authenticate, size } = authenticator()
      for (let i = 0; i < 20; i++) await codeOf(authenticate(`nobody${i}`, () => IP))
      expect(size()).toBe(0)
    })

    test('a change is in force as soon as it is published: key off and on, user off, user gone', async () => {
      const { authenticate } = authenticator()
      const made = await newKey()
      const { tokens, users } = db.tables
      expect(await codeOf(authenticate(made.key, () => IP))).toBe('accepted')
      await disable(made.id)
      expect(await codeOf(authenticate(made.key, () => IP))).toBe('401 invalid_api_key')
      await change('api-keys', (tx) => tx.update(tokens).set({ status: 1 }).where(eq(tokens.id, made.id)))
      expect(await codeOf(authenticate(made.key, () => IP))).toBe('accepted')
      await change('users', (tx) => tx.update(users).set({ status: 2 }).where(eq(users.id, made.userId)))
      expect(await codeOf(authenticate(made.key, () => IP))).toBe('403 access_denied')
      await change('users', (tx) => tx.delete(users).where(eq(users.id, made.userId)))
      expect(await codeOf(authenticate(made.key, () => IP))).toBe('401 invalid_api_key')
    })

    test('a read that was under way during a revocation does not revive the key', async () => {
      const gates: (() => void)[] = []
      let isSlow = true
      const slow = watched(db, {
        after: async () => {
          if (isSlow) await new Promise<void>((open) => gates.push(open))
        },
      })
      const { authenticate } = authenticator(slow)
      const made = await newKey()
      const inFlight = codeOf(authenticate(made.key, () => IP))
      await eventually('the row is read, its answer still on the way', () => gates.length === 1)
      isSlow = false
      await disable(made.id)
      gates[0]?.()
      expect(await inFlight).toBe('401 invalid_api_key')
      expect(await codeOf(authenticate(made.key, () => IP))).toBe('401 invalid_api_key')
    })

    test('a reload that was under way during a revocation does not revive the key', async () => {
      const gates: (() => void)[] = []
      let isSlow = false
      const slow = watched(db, {
        after: async () => {
          if (isSlow) await new Promise<void>((open) => gates.push(open))
        },
      })
      const { authenticate } = authenticator(slow)
      const made = await newKey()
      expect(await codeOf(authenticate(made.key, () => IP))).toBe('accepted')
      // Both topics are up to date, so that no reload runs but those of the two changes below.
      await change('users', async () => {})
      await change('api-keys', async () => {})
      isSlow = true
      // The reload of the first change has read the key as enabled and is held up …
      const first = change('users', async () => {})
      await eventually('the first reload has read', () => gates.length > 0)
      isSlow = false
      // … while the second change, to another topic, disables it and reloads past it.
      const second = disable(made.id)
      // Unless it is its own reload that is held up: a look at the versions may have begun one just now.
      await Promise.race([second, Bun.sleep(500)])
      for (const open of gates) open()
      await Promise.all([first, second])
      expect(await codeOf(authenticate(made.key, () => IP))).toBe('401 invalid_api_key')
    })

    test('a change that names its rows leaves the other keys in memory', async () => {
      let reads = 0
      const counted = watched(db, { before: () => reads++ })
      const { authenticate } = authenticator(counted)
      const [one, other] = [await newKey(), await newKey()]
      const all = async () => [
        await codeOf(authenticate(one.key, () => IP)),
        await codeOf(authenticate(other.key, () => IP)),
      ]
      const named = async (topic: string, id: number, work: (tx: Db) => PromiseLike<unknown>): Promise<void> => {
        await db.transaction(async (tx) => {
          await work(tx)
          await bumpTopic(tx, topic, [id])
        })
        await node.topics.changed(topic)
      }
      const { tokens, users } = db.tables
      expect(await all()).toEqual(['accepted', 'accepted'])
      await change('users', async () => {})
      await change('api-keys', async () => {})
      await named('api-keys', one.id, (tx) => tx.update(tokens).set({ status: 2 }).where(eq(tokens.id, one.id)))
      reads = 0
      expect(await codeOf(authenticate(other.key, () => IP))).toBe('accepted')
      expect(reads).toBe(0)
      expect(await all()).toEqual(['401 invalid_api_key', 'accepted'])
      await named('users', other.userId, (tx) => tx.update(users).set({ status: 2 }).where(eq(users.id, other.userId)))
      expect(await all()).toEqual(['401 invalid_api_key', '403 access_denied'])
    })

    test('without the database a known key works for the lease and no longer; an unknown one is a 503, never a 401', async () => {
      let isGone = false
      const failing = watched(db, {
        before: () => {
          if (isGone) throw new DbError('unavailable', 'gone')
        },
      })
      const { authenticate } = authenticator(failing)
      const made = await newKey()
      expect(await codeOf(authenticate(made.key, () => IP))).toBe('accepted')
      isGone = true
      clock.advance(FRESH_MS + LEASE_MS - 1)
      expect(await codeOf(authenticate(made.key, () => IP))).toBe('accepted')
      expect(await codeOf(authenticate('sk-unknown', () => IP))).toBe('503 dependency_unavailable')
      clock.advance(1)
      expect(await codeOf(authenticate(made.key, () => IP))).toBe('503 dependency_unavailable')
      isGone = false
      expect(await codeOf(authenticate(made.key, () => IP))).toBe('accepted')
    })

    test('a key whose row may have changed is not served from memory when the database goes before it is read again', async () => {
      let isGone = false
      const failing = watched(db, {
        before: () => {
          if (isGone) throw new DbError('unavailable', 'gone')
        },
      })
      const { authenticate } = authenticator(failing)
      const made = await newKey()
      expect(await codeOf(authenticate(made.key, () => IP))).toBe('accepted')
      isGone = true
      await disable(made.id)
      expect(await codeOf(authenticate(made.key, () => IP))).toBe('503 dependency_unavailable')
      isGone = false
      expect(await codeOf(authenticate(made.key, () => IP))).toBe('401 invalid_api_key')
    })

    test('an edit behind our back is noticed once the entry is no longer fresh', async () => {
      const { authenticate } = authenticator()
      const made = await newKey()
      expect(await codeOf(authenticate(made.key, () => IP))).toBe('accepted')
      await db.update(db.tables.tokens).set({ status: 2 }).where(eq(db.tables.tokens.id, made.id))
      clock.advance(FRESH_MS)
      await eventually(
        'the entry was read again',
        async () => (await codeOf(authenticate(made.key, () => IP))) !== 'accepted',
      )
    })

    test('a key reads about itself when it is expired or exhausted, not when it is disabled', async () => {
      const { identifyKey } = authenticator()
      const read = async (key: Partial<KeyInsert>, user: Partial<UserInsert> = {}) =>
        codeOf(identifyKey(`sk-${(await newKey(key, user)).key}`))
      expect(await read({ expiredTime: 1 })).toBe('accepted')
      expect(await read({ status: 3 })).toBe('accepted')
      expect(await read({ status: 4 })).toBe('accepted')
      expect(await read({ status: 2 })).toBe('401 invalid_api_key')
      expect(await read({}, { status: 2 })).toBe('403 access_denied')
    })
  })
}
