/** A database with users, keys and channels, and ledgers on it, for the ledger's tests. Everything it opens, it closes. */
import { Database } from 'bun:sqlite'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { eq } from 'drizzle-orm'
import type { Db } from '../../../src/db/index.ts'
import {
  type CallRecord,
  createLedger,
  creditBalance,
  type Ledger,
  type LedgerOptions,
  type Payer,
} from '../../../src/domain/billing/index.ts'
import { GatewayError } from '../../../src/errors.ts'
import { systemClock } from '../../../src/lib/clock.ts'
import { silentLog } from '../../../src/lib/log.ts'
import { createMemoryState, type State } from '../../../src/state/index.ts'
import { type AuditOptions, type AuditReport, expectAudit } from '../../support/auditor.ts'
import { sqlServer, type TestDb, type TestEngine } from '../../support/engines.ts'

export interface WorldKey extends Payer {
  readonly username: string
  readonly apiKeyName: string
}

export type World = Awaited<ReturnType<typeof createWorld>>

export async function createWorld(engine: TestEngine, options: { readonly testDb?: TestDb } = {}) {
  const testDb = options.testDb ?? (await engine.freshDb())
  const { db } = testDb
  const { users, tokens, channels } = db.tables
  const folder = await mkdtemp(join(tmpdir(), 'headgate-ledger-'))
  const bus = createMemoryState({ clock: systemClock, log: silentLog })
  const granted = new Map<string, number>()
  const ledgers = new Set<Ledger>()
  const dbs: Db[] = []
  let names = 0
  let requests = 0

  return {
    db,
    testDb,
    folder,
    bus,
    granted,
    ledgers,

    /** @param key.remain quota units of the key; absent: unlimited */
    async payer({ wallet, key }: { readonly wallet: number; readonly key?: number }): Promise<WorldKey> {
      const n = ++names
      const userId = await db.insertId(users, {
        username: `user-${n}`,
        password: '',
        quota: wallet,
        affCode: `a${n}`,
        role: 1,
        status: 1,
      })
      const apiKeyId = await db.insertId(tokens, {
        userId,
        key: `key-${n}-${crypto.randomUUID()}`,
        name: `key-${n}`,
        status: 1,
        remainQuota: key ?? 0,
        unlimitedQuota: key === undefined,
      })
      granted.set(`u:${userId}`, wallet)
      granted.set(`t:${apiKeyId}`, key ?? 0)
      return { userId, apiKeyId, isUnlimitedKey: key === undefined, username: `user-${n}`, apiKeyName: `key-${n}` }
    },
    channel: (): Promise<number> =>
      db.insertId(channels, {
        key: 'k',
        name: `channel-${++names}`,
        type: 1,
        status: 1,
        models: 'm',
        group: 'default',
      }),
    async credit(account: { kind: 'user' | 'api-key'; id: number }, amount: number): Promise<void> {
      await db.transaction((tx) => creditBalance(tx, account, amount))
      const key = `${account.kind === 'user' ? 'u' : 't'}:${account.id}`
      granted.set(key, (granted.get(key) ?? 0) + amount)
    },

    record: (payer: WorldKey, channelId: number, part: Partial<CallRecord> = {}): CallRecord => ({
      requestId: `r${++requests}-${crypto.randomUUID().slice(0, 8)}`,
      type: 2,
      createdAtSec: Math.floor(Date.now() / 1000),
      userId: payer.userId,
      username: payer.username,
      apiKeyId: payer.apiKeyId,
      apiKeyName: payer.apiKeyName,
      modelName: 'm',
      channelId,
      group: 'default',
      ip: '',
      content: '',
      promptTokens: 3,
      completionTokens: 4,
      useTimeSec: 1,
      isStream: false,
      other: { model_ratio: 1 },
      isCounted: true,
      ...part,
    }),

    /** A ledger of its own data directory (unless given), with its own connections if `isOwnDb`. */
    async ledger(options: Partial<LedgerOptions> & { readonly isOwnDb?: boolean } = {}): Promise<Ledger> {
      const { isOwnDb, ...rest } = options
      const own = isOwnDb ? await testDb.open() : db
      if (isOwnDb) dbs.push(own)
      const ledger = createLedger({
        db: own,
        logDb: rest.db ?? own,
        bus,
        log: silentLog,
        clock: systemClock,
        dataDir: join(folder, `node-${ledgers.size + 1}`),
        instance: { node: `node-${ledgers.size + 1}`, worker: 0, role: 'master', version: 'test' },
        leaseMs: 3_000,
        sync: 'normal',
        flush: { isBatch: false, intervalMs: 0 },
        isSingleNode: false,
        isLogged: () => true,
        isExported: () => true,
        ...rest,
      })
      ledgers.add(ledger)
      await ledger.open()
      return ledger
    },

    async drainAll(): Promise<void> {
      await Promise.all([...ledgers].map((ledger) => ledger.drain(20_000)))
      ledgers.clear()
    },
    /** Drains every ledger and audits what is left. */
    async close(
      options: AuditOptions & { readonly logDb?: Db; readonly isUnaudited?: boolean } = {},
    ): Promise<AuditReport | undefined> {
      try {
        await this.drainAll()
        const dataDirs = (await readdir(folder)).map((name) => join(folder, name))
        return options.isUnaudited
          ? undefined
          : await expectAudit(db, options.logDb ?? db, { granted, dataDirs, ...options })
      } finally {
        for (const each of dbs) await each.close()
        await bus.close()
        await testDb.close()
        await rm(folder, { recursive: true, force: true })
      }
    },
    readUser: async (id: number) => (await db.select().from(users).where(eq(users.id, id)))[0]!,
    readKey: async (id: number) => (await db.select().from(tokens).where(eq(tokens.id, id)))[0]!,
  }
}

/** Runs a statement behind the back of everything, e.g. to make a table refuse something. */
export async function execute(engine: TestEngine, world: World, ...statements: readonly string[]): Promise<void> {
  if (engine.isServer) {
    const database = /\/(test_\w+)/.exec(world.testDb.env.SQL_DSN!)![1]!
    return (await sqlServer()).execute(`use ${database}`, ...statements)
  }
  const raw = new Database(world.testDb.env.SQLITE_PATH!)
  for (const statement of statements) raw.run(statement)
  raw.close()
}

/** A bus that carries nothing: what is left is the database. */
export const deafBus = (): State => {
  const bus = createMemoryState({ clock: systemClock, log: silentLog })
  return { ...bus, publish: async () => {} }
}

/** How an attempt ended: `ok`, or the code of its refusal. (`rejects` of a pending promise holds the event loop back.) */
export const codeOf = async (promise: Promise<unknown>): Promise<string> => {
  try {
    await promise
    return 'ok'
  } catch (error) {
    if (error instanceof GatewayError) return error.code
    throw error
  }
}
