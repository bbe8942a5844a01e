/**
 * A master that does nothing but one counted job, to be killed and frozen by the tests. Each run writes a row when it begins
 * and one when it has worked, both under its turn's fence, and minds no signal: a job that is as stubborn as can be.
 */
import { openDb } from '../../src/db/index.ts'
import { createTakeTurn } from '../../src/domain/cluster/index.ts'
import { createJobRunner } from '../../src/jobs/index.ts'
import { systemClock } from '../../src/lib/clock.ts'
import { silentLog } from '../../src/lib/log.ts'
import { roleOf } from '../../src/role.ts'

export interface MasterOptions {
  readonly dsn: string
  readonly holder: string
  readonly ttlMs: number
  readonly periodMs: number
  readonly workMs: number
  readonly clockAheadMs?: number
}

/** What a row says, as JSON, under the key `<begun|done> <id of the run>`. */
export interface RunNote {
  readonly holder: string
  /** Database time. */
  readonly atMs: number
}

if (import.meta.main) {
  const { dsn, holder, ttlMs, periodMs, workMs, clockAheadMs = 0 } = JSON.parse(process.argv[2] ?? '') as MasterOptions
  const db = await openDb({ dsn, log: silentLog })
  const clock = { ...systemClock, now: () => Date.now() + clockAheadMs }
  const { clusterMeta } = db.tables
  const jobs = createJobRunner({
    jobs: [
      {
        name: 'counted',
        everyMs: periodMs,
        on: 'master',
        timeoutMs: 60_000,
        async run(_signal, turn) {
          const id = crypto.randomUUID()
          const note = (what: string) =>
            db.transaction(async (tx) => {
              await turn.fence(tx)
              const value: RunNote = { holder, atMs: await tx.now() }
              await tx.insert(clusterMeta).values({ key: `${what} ${id}`, value: JSON.stringify(value) })
            })
          await note('begun')
          await Bun.sleep(workMs)
          await note('done')
        },
      },
    ],
    role: roleOf('master'),
    takeTurn: createTakeTurn({ db, holder, ttlMs, log: silentLog, clock }),
    log: silentLog,
    clock,
  })
  jobs.start()
  process.on('SIGTERM', () => {
    void jobs.stop().then(async () => {
      await db.close()
      process.exit(0)
    })
  })
}
