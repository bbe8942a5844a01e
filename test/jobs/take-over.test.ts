/**
 * Jobs of several masters, each a process of its own on one database: run once per period, taken over from one that dies,
 * and safe from one that was frozen and comes back.
 */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { eq } from 'drizzle-orm'
import { SERVER_ENGINE, type TestDb } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import { spawnTied } from '../support/services.ts'
import type { MasterOptions, RunNote } from './fixture-master.ts'

const FIXTURE = join(import.meta.dir, 'fixture-master.ts')
const TTL_MS = 1_500
const patience = { withinMs: 60_000, everyMs: 25 }

interface Note extends RunNote {
  readonly what: 'begun' | 'done'
  readonly run: string
}

if (SERVER_ENGINE) {
  const engine = SERVER_ENGINE
  describe(`jobs of several masters on ${engine.name}`, () => {
    let database: TestDb
    let folder: string
    const masters = new Map<string, Bun.Subprocess>()
    beforeAll(async () => {
      folder = await mkdtemp(join(tmpdir(), 'headgate-masters-'))
    })
    afterAll(() => rm(folder, { recursive: true, force: true }))

    const start = (
      holder: string,
      options: Pick<MasterOptions, 'periodMs' | 'workMs'> & Partial<MasterOptions>,
    ): void => {
      const all: MasterOptions = { dsn: database.env.SQL_DSN ?? '', holder, ttlMs: TTL_MS, ...options }
      const command = [process.execPath, '--no-env-file', FIXTURE, JSON.stringify(all)]
      masters.set(holder, spawnTied(command, join(folder, holder)))
    }
    const endAll = async (): Promise<void> => {
      for (const child of masters.values()) child.kill('SIGKILL')
      await Promise.all([...masters.values()].map((child) => child.exited))
      masters.clear()
    }
    /** In the order in which they were written. */
    const notes = async (): Promise<readonly Note[]> => {
      const { clusterMeta } = database.db.tables
      const rows = await database.db.select().from(clusterMeta)
      return rows
        .flatMap(({ key, value }) => {
          const [what, run] = key.split(' ')
          if (!run || (what !== 'begun' && what !== 'done')) return []
          return [{ what, run, ...(JSON.parse(value) as RunNote) } satisfies Note]
        })
        .sort((a, b) => a.atMs - b.atMs)
    }
    const of = (all: readonly Note[], what: Note['what']) => all.filter((note) => note.what === what)
    const withDatabase = async (work: () => Promise<void>): Promise<void> => {
      database = await engine.freshDb()
      try {
        await work()
      } finally {
        await endAll()
        await database.close()
      }
    }

    test(
      'each due run is done once per period over all masters, also by one whose clock is an hour off and through stops',
      () =>
        withDatabase(async () => {
          const options = { periodMs: 400, workMs: 20 }
          start('a', options)
          start('b', { ...options, clockAheadMs: 3_600_000 })
          start('c', { ...options, clockAheadMs: -3_600_000 })
          await eventually('some runs', async () => of(await notes(), 'done').length >= 3, patience)
          // Whoever is stopped gives its turn up; a new one neither skips nor doubles a run.
          masters.get('a')!.kill('SIGTERM')
          expect(await masters.get('a')!.exited).toBe(0)
          const { leases } = database.db.tables
          expect(await database.db.$count(leases, eq(leases.holder, 'a'))).toBe(0)
          start('d', options)
          await eventually('some more runs', async () => of(await notes(), 'done').length >= 7, patience)
          await endAll()
          const all = await notes()
          const begun = of(all, 'begun')
          const gaps = begun.slice(1).map(({ atMs }, index) => atMs - begun[index]!.atMs)
          console.log(
            `runs ${begun.length} by ${[...new Set(begun.map(({ holder }) => holder))].join(' ')}, ` +
              `gaps ${Math.min(...gaps)}–${Math.max(...gaps)} ms for a period of ${options.periodMs} ms`,
          )
          expect(Math.min(...gaps)).toBeGreaterThanOrEqual(options.periodMs)
        }),
      120_000,
    )

    test(
      'another master takes over from one that is killed in its run',
      () =>
        withDatabase(async () => {
          const options = { periodMs: 100, workMs: 30_000 }
          start('a', options)
          await eventually('it runs', async () => (await notes()).length > 0, patience)
          start('b', { ...options, workMs: 10 })
          start('c', { ...options, workMs: 10 })
          const [first] = await notes()
          const killedAtMs = await database.db.now()
          masters.get('a')!.kill('SIGKILL')
          const next = await eventually('another runs it', async () => of(await notes(), 'begun')[1], patience)
          expect(next.holder).not.toBe('a')
          expect(of(await notes(), 'done').some(({ run }) => run === first!.run)).toBe(false)
          console.log(`taken over ${next.atMs - killedAtMs} ms after the kill; the lease is ${TTL_MS} ms`)
          // Nobody may begin before the lease of the dead one is over.
          expect(next.atMs - killedAtMs).toBeGreaterThan(TTL_MS / 2)
        }),
      120_000,
    )

    test(
      'what a frozen holder writes after another took over is refused, and it goes on as a good member',
      () =>
        withDatabase(async () => {
          start('frozen', { periodMs: 100, workMs: 700 })
          const first = await eventually('it runs', async () => of(await notes(), 'begun')[0], patience)
          masters.get('frozen')!.kill('SIGSTOP')
          start('b', { periodMs: 100, workMs: 10 })
          await eventually(
            'another has taken over',
            async () => of(await notes(), 'done').filter(({ holder }) => holder === 'b').length >= 2,
            patience,
          )
          const whileFrozen = (await notes()).filter(({ holder }) => holder === 'frozen')
          masters.get('frozen')!.kill('SIGCONT')
          // It must have had its chance to write: it is back when it has won a turn of its own again.
          masters.get('b')!.kill('SIGTERM')
          await masters.get('b')!.exited
          await eventually(
            'the thawed one works again',
            async () => of(await notes(), 'done').some(({ holder }) => holder === 'frozen'),
            patience,
          )
          await endAll()
          const all = await notes()
          const isWritten = of(all, 'done').some(({ run }) => run === first.run)
          console.log(
            `the frozen holder had written ${whileFrozen.map(({ what }) => what).join(', ')}; its late write: ${isWritten ? 'there' : 'refused'}`,
          )
          expect(isWritten).toBe(whileFrozen.some(({ what }) => what === 'done'))
          expect(isWritten).toBe(false)
          // One at a time, over all of it: a run that ended did so before the next began.
          for (const done of of(all, 'done')) {
            const begun = of(all, 'begun').find(({ run }) => run === done.run)!
            const between = of(all, 'begun').filter(
              ({ run, atMs }) => run !== done.run && atMs > begun.atMs && atMs < done.atMs,
            )
            expect(between).toEqual([])
          }
        }),
      120_000,
    )
  })
}
