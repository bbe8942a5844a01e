/** What SQLite has committed comes to the disk, and its log stays short, also while a transaction is open and others write. */
import { expect, test } from 'bun:test'
import { existsSync, statSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openDb, syncSchema } from '../../src/db/index.ts'
import { silentLog } from '../../src/lib/log.ts'
import { checkpointFile } from '../../src/lib/wal.ts'

for (const by of ['itself', 'another process'] as const)
  test(`a log that ${by} checkpoints begins anew under load, and an open transaction keeps no sync waiting`, async () => {
    const folder = await mkdtemp(join(tmpdir(), 'headgate-log-'))
    const sqlitePath = join(folder, 'main.db')
    let checkpoints = 0
    const db = await openDb({
      sqlitePath,
      log: silentLog,
      ...(by === 'another process' && {
        checkpoint: async (file) => {
          checkpoints++
          await new Promise(setImmediate)
          // The last one may come when all is over.
          if (existsSync(file.path)) checkpointFile(file)
          return true
        },
      }),
    })
    try {
      await syncSchema(db, { log: silentLog })
      const { logs } = db.tables
      const row = { userId: 1, content: 'x'.repeat(3_000) }
      let longest = 0
      let isWriting = true
      const writer = async (): Promise<void> => {
        for (let n = 0; n < 500; n++) {
          await db.transaction(async (tx) => {
            await tx.insert(logs).values([row, row, row, row])
            await new Promise(setImmediate)
          })
          longest = Math.max(longest, statSync(`${sqlitePath}-wal`).size)
        }
      }
      const syncs = (async () => {
        while (isWriting) {
          expect(await db.sync()).toBe(true)
          await Bun.sleep(5)
        }
      })()
      await Promise.all([writer(), writer(), writer()])
      isWriting = false
      await syncs
      const inside = Promise.withResolvers<void>()
      const open = db.transaction(async (tx) => {
        await tx.insert(logs).values(row)
        await inside.promise
      })
      await Bun.sleep(0)
      expect(await db.sync()).toBe(true)
      inside.resolve()
      await open
      // All that was written is 146 MB. How far it comes beyond its limit, of 16, depends on what else the machine does.
      expect(longest).toBeLessThan(60e6)
      expect(statSync(sqlitePath).size).toBeGreaterThan(15e6)
      expect(checkpoints > 2).toBe(by === 'another process')
      expect(await db.$count(logs)).toBe(6_001)
    } finally {
      await db.close()
      await rm(folder, { recursive: true })
    }
  }, 60_000)
