/** What people ask for is done once, by one master, with its progress kept; whoever loses it writes nothing more. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { eq, lt } from 'drizzle-orm'
import { createSystemTasks, type SystemTask } from '../../src/domain/cluster/index.ts'
import { cleanLogs } from '../../src/domain/usage/index.ts'
import { createTaskRunner, logCleanUpTask, type Task } from '../../src/jobs/index.ts'
import { systemClock } from '../../src/lib/clock.ts'
import { silentLog } from '../../src/lib/log.ts'
import { roleOf } from '../../src/role.ts'
import { createMemoryState, type State } from '../../src/state/index.ts'
import { ENGINES, type TestDb } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'

const never = new AbortController().signal
const patience = { withinMs: 30_000 }

for (const engine of ENGINES) {
  describe(`system tasks on ${engine.name}`, () => {
    let database: TestDb
    const bus: State = createMemoryState({ clock: systemClock, log: silentLog })
    beforeAll(async () => {
      database = await engine.freshDb()
    }, 60_000)
    afterAll(async () => {
      await bus.close()
      await database.close()
    })

    const tasksOf = (worker: string, ttlMs = 60_000) => createSystemTasks({ db: database.db, bus, worker, ttlMs })
    const runner = (worker: string, kinds: readonly Task[], options: { nodeType?: string; ttlMs?: number } = {}) => {
      const tasks = tasksOf(worker, options.ttlMs)
      const created = createTaskRunner({
        tasks,
        kinds,
        role: roleOf(options.nodeType ?? 'master'),
        ttlMs: options.ttlMs ?? 60_000,
        log: silentLog,
        clock: systemClock,
        // Only a message can be as fast as these tests expect.
        lookMs: options.ttlMs ? 200 : 600_000,
      })
      created.start()
      return created
    }
    const kind = (type: string, run: Task['run'], isResumable = false): Task => ({ type, isResumable, run })
    const ended = (task: SystemTask | undefined): Promise<SystemTask> =>
      eventually(
        'the task has ended',
        async () => {
          const now = await tasksOf('reader').find(task!.taskId)
          return now?.activeKey === undefined ? now : undefined
        },
        patience,
      )
    const asked = async (type: string, payload: unknown = {}): Promise<SystemTask> =>
      (await tasksOf('slave').request(type, payload))!

    test('what is asked for on a slave is done by a master that hears of it; a slave does nothing itself', async () => {
      let doneBy = ''
      const by = (name: string) => [
        kind('hello', async ({ payload }) => {
          doneBy += name
          return { heard: payload }
        }),
      ]
      const slave = runner('slave', by('slave'), { nodeType: 'slave' })
      const master = runner('master', by('master'))
      const task = await asked('hello', { word: '你好' })
      expect(task).toMatchObject({ type: 'hello', status: 'pending', activeKey: 'hello', payload: { word: '你好' } })
      expect(task.taskId).toMatch(/^systask_[0-9a-f]{32}$/)
      expect(await ended(task)).toMatchObject({
        status: 'succeeded',
        result: { heard: { word: '你好' } },
        error: '',
        lockedBy: 'master',
      })
      expect(doneBy).toBe('master')
      await Promise.all([slave.stop(), master.stop()])
    })

    test('one task of a type is live at a time, however many ask at once; after its end another may be', async () => {
      const tasks = tasksOf('a')
      const answers = await Promise.all(Array.from({ length: 8 }, () => tasks.request('single', {})))
      const accepted = answers.filter((task) => task !== undefined)
      expect(accepted.length).toBe(1)
      expect((await tasks.current('single'))?.taskId).toBe(accepted[0]!.taskId)
      const claim = (await tasks.claim(['single']))!
      expect(await tasksOf('b').claim(['single'])).toBeUndefined()
      expect(await tasks.end(claim, undefined, { status: 'succeeded', result: 1 })).toBe(true)
      expect(await tasks.current('single')).toBeUndefined()
      const next = await tasks.request('single', {})
      expect(next?.status).toBe('pending')
      await tasks.end((await tasks.claim(['single']))!, undefined, { status: 'failed', error: 'enough' })
      expect(await tasks.find(next!.taskId)).toMatchObject({ status: 'failed', error: 'enough', result: null })
    })

    test('the task of a worker that died has failed, and nothing that worker still writes arrives', async () => {
      const { systemTaskLocks } = database.db.tables
      const dead = tasksOf('dead')
      const task = await asked('interrupted')
      const claim = (await dead.claim(['interrupted']))!
      expect(await dead.note(claim, { processed: 7 })).toBe(true)
      const others = tasksOf('living')
      expect(await others.failExpired()).toBe(0)
      // As if it had been silent for the whole lease.
      await database.db.update(systemTaskLocks).set({ lockedUntil: 1 }).where(eq(systemTaskLocks.type, 'interrupted'))
      expect(await others.failExpired()).toBe(1)
      const failed = { status: 'failed', error: 'task lease expired', state: { processed: 7 }, activeKey: undefined }
      expect(await others.find(task.taskId)).toMatchObject(failed)
      // Another one of the type has begun when the dead one thaws.
      await asked('interrupted')
      const next = (await others.claim(['interrupted']))!
      expect(await dead.renew(claim)).toBe(false)
      expect(await dead.note(claim, { processed: 9 })).toBe(false)
      expect(await dead.end(claim, { processed: 9 }, { status: 'succeeded', result: 9 })).toBe(false)
      expect(await others.find(task.taskId)).toMatchObject(failed)
      expect(await others.renew(next)).toBe(true)
      await others.end(next, undefined, { status: 'succeeded', result: null })
    })

    test('work hears that its task was taken from it', async () => {
      const { systemTaskLocks } = database.db.tables
      let heard = false
      const master = runner(
        'loser',
        [
          kind('taken', async ({ signal }) => {
            await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
            heard = true
          }),
        ],
        { ttlMs: 1_200 },
      )
      const task = await asked('taken')
      await eventually('it runs', async () => (await tasksOf('x').find(task.taskId))?.status === 'running', patience)
      await database.db.delete(systemTaskLocks).where(eq(systemTaskLocks.type, 'taken'))
      // Whoever notices first says so: the worker itself, or one that looks for expired tasks.
      expect(await ended(task)).toMatchObject({
        status: 'failed',
        error: expect.stringMatching(/was lost|lease expired/),
      })
      await eventually('the work heard', () => heard, patience)
      await master.stop()
    })

    test('a failure is told; a task that can go on is given back at a stop and goes on from its state elsewhere', async () => {
      const failing = runner('a', [
        kind('failing', async () => {
          throw new Error('no luck')
        }),
      ])
      expect(await ended(await asked('failing'))).toMatchObject({ status: 'failed', error: 'no luck' })
      await failing.stop()

      const began = Promise.withResolvers<void>()
      const first = runner('first', [
        kind(
          'long',
          async ({ progress, signal }) => {
            await progress({ processed: 40 })
            began.resolve()
            await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
          },
          true,
        ),
      ])
      const task = await asked('long')
      await began.promise
      await first.stop()
      expect(await tasksOf('x').find(task.taskId)).toMatchObject({ status: 'pending', state: { processed: 40 } })
      const second = runner('second', [kind('long', async ({ state }) => ({ from: state }), true)], { ttlMs: 60_000 })
      // Nobody was there to hear that it was given back.
      expect(await ended(task)).toMatchObject({ status: 'succeeded', result: { from: { processed: 40 } } })
      await second.stop()
    })

    test('ended tasks of long ago are removed, live ones and new ones stay', async () => {
      const { systemTasks } = database.db.tables
      const tasks = tasksOf('a')
      await asked('pruned')
      await tasks.end((await tasks.claim(['pruned']))!, undefined, { status: 'succeeded', result: 1 })
      const live = await asked('pruned')
      const old = { status: 'succeeded', type: 'pruned', createdAt: 5, updatedAt: 5 }
      await database.db
        .insert(systemTasks)
        .values(Array.from({ length: 700 }, (_, index) => ({ ...old, taskId: `systask_old_${index}` })))
      await database.db
        .insert(systemTasks)
        .values({ ...old, taskId: 'other', type: 'live', status: 'pending', activeKey: 'live' })
      const before = await database.db.$count(systemTasks)
      expect(await tasks.prune(never)).toBe(700)
      expect(await database.db.$count(systemTasks)).toBe(before - 700)
      expect((await tasks.current('pruned'))?.taskId).toBe(live.taskId)
      await database.db.delete(systemTasks).where(lt(systemTasks.updatedAt, 6))
    })

    describe('the clean-up of call records', () => {
      const fill = async (rows: number, createdAt: number): Promise<void> => {
        const { logs } = database.db.tables
        for (let left = rows; left > 0; left -= 1_000)
          await database.db
            .insert(logs)
            .values(
              Array.from({ length: Math.min(left, 1_000) }, () => ({ createdAt, type: 2, content: '', requestId: '' })),
            )
      }
      const master = () => runner('master', [logCleanUpTask((wanted, run) => cleanLogs(database.db, wanted, run))])

      test('deletes what is older than the moment and nothing else, and says how many', async () => {
        const { logs } = database.db.tables
        await fill(2_300, 1_000)
        await fill(40, 2_000)
        const running = master()
        const task = await ended(await asked('log_cleanup', { target_timestamp: 2_000, batch_size: 500 }))
        expect(task).toMatchObject({
          status: 'succeeded',
          result: { deleted_count: 2_300 },
          state: { total: 2_300, processed: 2_300, remaining: 0, progress: 100 },
        })
        expect(await database.db.$count(logs)).toBe(40)
        // One that finds nothing ends, too.
        expect(await ended(await asked('log_cleanup', { target_timestamp: 2_000 }))).toMatchObject({
          status: 'succeeded',
          result: { deleted_count: 0 },
        })
        await running.stop()
        await database.db.delete(logs)
      }, 60_000)

      test('rows are written and read while it runs, and none of them is lost', async () => {
        const { logs } = database.db.tables
        await fill(5_000, 1_000)
        const running = master()
        const task = await asked('log_cleanup', { target_timestamp: 2_000, batch_size: 100 })
        let written = 0
        while ((await tasksOf('x').find(task.taskId))?.activeKey !== undefined) {
          await fill(1, 3_000)
          written++
          // SQLite answers at once; timers would never have their turn.
          await Bun.sleep(1)
        }
        expect((await ended(task)).result).toEqual({ deleted_count: 5_000 })
        expect(written).toBeGreaterThan(0)
        expect(await database.db.$count(logs)).toBe(written)
        await running.stop()
        await database.db.delete(logs)
      }, 60_000)

      test('goes on from what an earlier run had done', async () => {
        await fill(300, 1_000)
        const states: unknown[] = []
        const deleted = await cleanLogs(
          database.db,
          { beforeSec: 2_000, batchSize: 100 },
          { from: { processed: 700 }, signal: never, progress: async (state) => void states.push(state) },
        )
        expect(deleted).toBe(1_000)
        expect(states[0]).toEqual({ total: 1_000, processed: 700, remaining: 300, progress: 70 })
        expect(states.at(-1)).toEqual({ total: 1_000, processed: 1_000, remaining: 0, progress: 100 })
      })
    })
  })
}
