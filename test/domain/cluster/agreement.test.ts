/** What all nodes must have alike: who may join, who decides first, and how the cluster goes over to another secret. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { eq } from 'drizzle-orm'
import { readTopicVersions } from '../../../src/db/index.ts'
import {
  createAgreement,
  createInstances,
  deriveSecrets,
  nodesWithout,
  openSalt,
  readAgreed,
  readPeers,
  secretInfo,
} from '../../../src/domain/cluster/index.ts'
import { systemClock } from '../../../src/lib/clock.ts'
import { createLog, type LogSink } from '../../../src/lib/log.ts'
import { createMemoryState, createTopics } from '../../../src/state/index.ts'
import { ENGINES, type TestDb } from '../../support/engines.ts'
import { eventually } from '../../support/eventually.ts'

interface Settings {
  readonly session: readonly string[]
  readonly crypto: readonly string[]
  readonly ledgerLeaseSec: number
}

const OLD: Settings = { session: ['old session'], crypto: ['old crypto'], ledgerLeaseSec: 10 }
const VARIABLES = [
  { name: 'SESSION_SECRET', other: { ...OLD, session: ['another'] } },
  { name: 'CRYPTO_SECRET', other: { ...OLD, crypto: ['another'] } },
  { name: 'LEDGER_LEASE', other: { ...OLD, ledgerLeaseSec: 11 } },
] as const

for (const engine of ENGINES) {
  describe(`agreement on ${engine.name}`, () => {
    let testDb: TestDb
    const lines: string[] = []
    const alerts: string[] = []
    const sink: LogSink = { write: (line) => lines.push(line), close: async () => {} }
    const log = createLog({ level: 'debug', sinks: [sink] })

    beforeAll(async () => {
      testDb = await engine.freshDb()
    })
    afterAll(() => testDb.close())
    beforeEach(async () => {
      lines.length = 0
      alerts.length = 0
      await testDb.db.delete(testDb.db.tables.clusterInstances)
      await testDb.db.delete(testDb.db.tables.clusterMeta)
    })

    const nodeOf = async (settings: Settings, nodeId: string) => {
      const { db } = testDb
      const own = await deriveSecrets(settings, await openSalt(db))
      const agreement = createAgreement({
        db,
        own: own.fingerprints,
        nodeId,
        isAlone: false,
        isCryptoDerived: false,
        unreadable: async () => undefined,
        leaseMs: settings.ledgerLeaseSec * 1000,
        alert: ({ kind }) => alerts.push(kind),
        log,
        clock: systemClock,
      })
      const instances = createInstances({ db, clock: systemClock })
      return {
        agreement,
        own,
        /** Writes its row and lets its heart beat until `stop`. */
        live: async () => {
          const id = crypto.randomUUID()
          const info = secretInfo(nodeId, own.fingerprints)
          await instances.register(id, { node: nodeId, worker: 0, role: 'master', version: '1', info }, 0)
          let beats = 0
          const timer = setInterval(() => void instances.beat(id, ++beats).catch(() => undefined), 100)
          return {
            kill: () => clearInterval(timer),
            stop: async () => {
              clearInterval(timer)
              await instances.setState([id], 'gone')
            },
          }
        },
      }
    }
    const agreedSession = async () => (await readAgreed(testDb.db))?.SESSION_SECRET

    test('a node with the same values joins; one with another value is refused, and told which variable', async () => {
      const first = await nodeOf(OLD, 'a')
      expect(await first.agreement.join()).toBeUndefined()
      const heart = await first.live()
      try {
        expect(await (await nodeOf(OLD, 'b')).agreement.join()).toBeUndefined()
        for (const { name, other } of VARIABLES) {
          const problem = await (await nodeOf(other, 'b')).agreement.join()
          expect(problem).toStartWith(`${name}:`)
          for (const { name: different } of VARIABLES) if (different !== name) expect(problem).not.toContain(different)
        }
        expect(await first.agreement.confirm()).toBeUndefined()
      } finally {
        await heart.stop()
      }
    })

    test('of several first nodes at once one decides, and only its like join', async () => {
      const nodes = await Promise.all(
        ['x', 'y', 'x', 'y', 'x', 'y'].map(async (secret, index) => {
          const node = await nodeOf({ ...OLD, session: [secret] }, `node ${index}`)
          return { secret, node, heart: await node.live() }
        }),
      )
      try {
        const problems = await Promise.all(nodes.map(({ node }) => node.agreement.join()))
        const joined = new Set(nodes.filter((_, index) => problems[index] === undefined).map(({ secret }) => secret))
        expect(joined.size).toBe(1)
        expect(problems.filter((problem) => problem?.startsWith('SESSION_SECRET:')).length).toBe(3)
      } finally {
        for (const { heart } of nodes) await heart.stop()
      }
    }, 20_000)

    test('when no other node lives, whether it stopped or was killed, the start takes its value over and warns', async () => {
      const short = { ...OLD, ledgerLeaseSec: 1 }
      const first = await nodeOf(short, 'a')
      await first.agreement.join()
      await (await first.live()).stop()
      expect(await (await nodeOf({ ...short, session: ['second'] }, 'b')).agreement.join()).toBeUndefined()
      const second = await nodeOf({ ...short, session: ['second'] }, 'b')
      ;(await second.live()).kill()
      expect(await (await nodeOf({ ...short, session: ['third'] }, 'c')).agreement.join()).toBeUndefined()
      expect(lines.some((line) => line.includes('takes over') && line.includes('SESSION_SECRET'))).toBe(true)
      // A node that had joined before, and shows itself only now, is not let in.
      expect(await second.agreement.confirm()).toStartWith('SESSION_SECRET:')
    }, 20_000)

    test('a node that was killed does not keep its own new start waiting', async () => {
      const first = await nodeOf(OLD, 'a')
      await first.agreement.join()
      ;(await first.live()).kill()
      const again = await nodeOf({ ...OLD, session: ['second'], ledgerLeaseSec: 60 }, 'a')
      expect(await again.agreement.join()).toBeUndefined()
    })

    test('a roll-out signs with the old secret until every node has the new one, and the list then moves on', async () => {
      const settings = { ...OLD, session: ['new session', 'old session'] }
      const oldNode = await nodeOf(OLD, 'a')
      await oldNode.agreement.join()
      const oldHeart = await oldNode.live()
      const newNode = await nodeOf(settings, 'b')
      expect(await newNode.agreement.join()).toBeUndefined()
      const newHeart = await newNode.live()
      try {
        expect(newNode.agreement.signing()).toBe(1)
        // A node of the way back: it has both as well, in the other order. Nothing moves while nodes want different ones.
        const backNode = await nodeOf({ ...OLD, session: ['old session', 'new session'] }, 'c')
        expect(await backNode.agreement.join()).toBeUndefined()
        const backHeart = await backNode.live()
        for (const stop of [oldHeart.stop, backHeart.stop]) {
          await newNode.agreement.advance()
          await backNode.agreement.advance()
          expect(await agreedSession()).toBe(oldNode.own.fingerprints.SESSION_SECRET[0])
          expect(newNode.agreement.signing()).toBe(1)
          expect(backNode.agreement.signing()).toBe(0)
          await stop()
        }
        await newNode.agreement.advance()
        expect(await agreedSession()).toBe(newNode.own.fingerprints.SESSION_SECRET[0])
        expect(newNode.agreement.signing()).toBe(0)
        const late = await nodeOf(OLD, 'd')
        expect(await late.agreement.join()).toStartWith('SESSION_SECRET:')
        expect(await (await nodeOf({ ...OLD, session: ['new session'] }, 'e')).agreement.join()).toBeUndefined()
      } finally {
        await newHeart.stop()
      }
    }, 30_000)

    test('a node that slept while the cluster took other secrets is not ready any more, and says so once', async () => {
      const sleeper = await nodeOf(OLD, 'a')
      expect(await sleeper.agreement.join()).toBeUndefined()
      const state = createMemoryState({ clock: systemClock, log })
      const topics = createTopics({
        state,
        readVersions: () => readTopicVersions(testDb.db),
        everyMs: 20,
        fullReloadMs: 60_000,
        log,
        clock: systemClock,
      })
      sleeper.agreement.follow(topics)
      topics.start()
      try {
        expect(sleeper.agreement.problem()).toBeUndefined()
        expect(await (await nodeOf({ ...OLD, session: ['second'] }, 'b')).agreement.join()).toBeUndefined()
        await eventually('the node notices', () => sleeper.agreement.problem()?.startsWith('SESSION_SECRET:'))
        await eventually('an operator is told', () => alerts.length > 0)
        await topics.changed('secrets')
        expect(alerts).toEqual(['secret-mismatch'])
      } finally {
        await sleeper.agreement.close()
        await topics.stop()
        await state.close()
      }
    })

    test('an instance of a release that tells no secrets keeps the old one signing', async () => {
      const node = await nodeOf({ ...OLD, session: ['new session', 'old session'] }, 'b')
      const first = await nodeOf(OLD, 'a')
      await first.agreement.join()
      expect(await node.agreement.join()).toBeUndefined()
      const heart = await node.live()
      const { clusterInstances } = testDb.db.tables
      const instances = createInstances({ db: testDb.db, clock: systemClock })
      await instances.register('older', { node: 'o', worker: 0, role: 'slave', version: '0' }, 0)
      await testDb.db.update(clusterInstances).set({ info: 'not json' }).where(eq(clusterInstances.id, 'older'))
      try {
        await node.agreement.advance()
        expect(node.agreement.signing()).toBe(1)
        // Nor may keys be encrypted, which it could not read.
        const peers = await readPeers(testDb.db)
        expect(nodesWithout(peers, 'CRYPTO_SECRET', node.own.fingerprints.CRYPTO_SECRET[0]!)).toEqual(['o'])
        await instances.setState(['older'], 'gone')
        await node.agreement.advance()
        expect(node.agreement.signing()).toBe(0)
      } finally {
        await heart.stop()
      }
    }, 40_000)
  })
}
