/**
 * A whole app in this process, on a database of its own: the real wiring over real HTTP, set up and ready, with a wallet
 * and a key to call with. `stop()` drains it and has the auditor check the money.
 */
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createApp } from '../../src/app.ts'
import { loadConfig } from '../../src/config.ts'
import { type Db, parseDsn } from '../../src/db/index.ts'
import { systemClock } from '../../src/lib/clock.ts'
import { type Log, silentLog } from '../../src/lib/log.ts'
import { createLoneNode } from '../../src/node.ts'
import { type AdminClient, createAdminClient, type MadeKey, type MadeUser } from './admin-client.ts'
import { type AuditOptions, type AuditReport, expectAudit } from './auditor.ts'
import type { TestEngine } from './engines.ts'

export interface TestApp {
  /** Without a path. */
  readonly url: string
  readonly admin: AdminClient
  /** With a full wallet and an unlimited key. */
  readonly user: MadeUser
  readonly key: MadeKey
  /** The same database, read beside the app. */
  readonly db: Db
  /** Lets the app end as a stop does, and leaves the database to be looked at. */
  drain(): Promise<void>
  /** Drains, audits, and removes everything. @throws Error when money is not where it should be */
  stop(audit?: AuditOptions): Promise<AuditReport>
}

export interface AppOptions {
  /** Variables of the configuration. */
  readonly env?: Readonly<Record<string, string>>
  readonly log?: Log
}

const PLENTY = 500_000_000

/** Variables that every test's node gets, whatever else it is given. */
export const TEST_ENV: Readonly<Record<string, string>> = {
  PORT: '0',
  // Tests log in and ask often, from one address.
  CRITICAL_RATE_LIMIT_ENABLE: 'false',
  GLOBAL_API_RATE_LIMIT_ENABLE: 'false',
  GLOBAL_WEB_RATE_LIMIT_ENABLE: 'false',
  SEARCH_RATE_LIMIT_ENABLE: 'false',
  SESSION_SECRET: 'a session secret of tests, long enough',
  NODE_NAME: 'test',
}

export async function openApp(engine: TestEngine, { env = {}, log = silentLog }: AppOptions = {}): Promise<TestApp> {
  const testDb = await engine.freshDb({ isEmpty: true })
  const folder = await mkdtemp(join(tmpdir(), 'headgate-app-'))
  const dataDir = join(folder, 'data')
  await mkdir(dataDir)
  const { config, problems } = loadConfig(
    { ...TEST_ENV, ...testDb.env, DATA_DIR: dataDir, LISTEN_HOST: '127.0.0.1', ...env },
    { parseDsn, cpus: 1, canSharePort: false, cwd: folder },
  )
  if (problems.length > 0) throw new Error(problems.join('\n'))
  const app = createApp({ config, log, node: createLoneNode({ clock: systemClock, log }) })
  const drain = once(() => app.stop(10_000))
  const close = async (): Promise<void> => {
    await testDb.close()
    await rm(folder, { recursive: true, force: true })
  }
  try {
    await app.start()
    const url = `http://127.0.0.1:${app.address()?.port}`
    const admin = createAdminClient(() => url)
    await admin.setUp()
    const user = await admin.user(PLENTY)
    const key = await admin.apiKey(user, { name: 'key' })
    return {
      url,
      admin,
      user,
      key,
      db: testDb.db,
      drain,
      async stop(audit = {}) {
        try {
          await drain()
          return await expectAudit(testDb.db, testDb.db, { granted: admin.granted, dataDirs: [dataDir], ...audit })
        } finally {
          await close()
        }
      },
    }
  } catch (error) {
    await drain()
    await close()
    throw error
  }
}

function once(work: () => Promise<void>): () => Promise<void> {
  let done: Promise<void> | undefined
  return () => {
    done ??= work()
    return done
  }
}
