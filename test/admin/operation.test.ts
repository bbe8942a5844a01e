/** Tasks, nodes and the cluster view over HTTP: root alone, in the shapes that clients of New API know. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { eq } from 'drizzle-orm'
import { clusterRoutes } from '../../src/admin/cluster-routes.ts'
import { systemInfoRoutes } from '../../src/admin/system-info-routes.ts'
import { systemTaskRoutes } from '../../src/admin/system-task-routes.ts'
import {
  createNodeRegistry,
  createSystemTasks,
  nodeInfo,
  readClusterView,
  type SystemTasks,
} from '../../src/domain/cluster/index.ts'
import { cleanLogs } from '../../src/domain/usage/index.ts'
import { createTaskRunner, logCleanUpTask } from '../../src/jobs/index.ts'
import { systemClock } from '../../src/lib/clock.ts'
import { silentLog } from '../../src/lib/log.ts'
import { roleOf } from '../../src/role.ts'
import { createMemoryState } from '../../src/state/index.ts'
import { ENGINES, type TestDb } from '../support/engines.ts'
import { asPeople } from './as-people.ts'
import type { ReplyJson } from './harness.ts'

const TTL_MS = 60_000

for (const engine of ENGINES) {
  describe(`operation over HTTP on ${engine.name}`, () => {
    let testDb: TestDb
    let people: ReturnType<typeof asPeople>
    let tasks: SystemTasks
    const state = createMemoryState({ clock: systemClock, log: silentLog })
    const registryOf = (name: string, nodeId = name) =>
      createNodeRegistry({ db: testDb.db, name, nodeId, startedAtSec: 1_700_000_000, staleAfterSec: 90 })
    const beat = (name: string, nodeId = name) =>
      registryOf(name, nodeId).beat(
        nodeInfo(
          {
            name,
            isNamed: false,
            isMaster: true,
            version: 'v1',
            hostname: 'h',
            platform: 'linux',
            arch: 'arm64',
            startedAtSec: 1_700_000_000,
          },
          { cpuPercent: 1, memoryPercent: 2, disk: { totalBytes: 100, freeBytes: 60 } },
        ),
      )

    beforeAll(async () => {
      testDb = await engine.freshDb()
      const { db } = testDb
      tasks = createSystemTasks({ db, bus: state, worker: 'worker-1', ttlMs: TTL_MS })
      people = asPeople((http) => [
        systemTaskRoutes({ tasks, http, batchSize: 100, clock: systemClock }),
        systemInfoRoutes({ registry: registryOf('reader'), http }),
        clusterRoutes({
          read: (names) => readClusterView(db, names),
          jobs: () => [{ name: 'clean-sessions', on: 'master', periodMs: 60_000 }],
          nodeName: 'node-0',
          http,
        }),
      ])
    }, 120_000)
    afterAll(async () => {
      await state.close()
      await testDb.close()
    })

    const data = async (method: string, path: string): Promise<ReplyJson> => {
      const { status, json } = await people.ask('root', method, path)
      expect({ status, success: json.success }).toEqual({ status: 200, success: true })
      return json.data as ReplyJson
    }

    test('root alone may see and do it', async () => {
      for (const [method, path] of [
        ['POST', '/api/system-task/log-cleanup?target_timestamp=5'],
        ['GET', '/api/system-task/list'],
        ['GET', '/api/system-task/current'],
        ['GET', '/api/system-task/systask_x'],
        ['DELETE', '/api/log/?target_timestamp=5'],
        ['GET', '/api/system-info/instances'],
        ['DELETE', '/api/system-info/stale-instances'],
        ['DELETE', '/api/system-info/instances/x'],
        ['GET', '/api/cluster'],
      ] as const) {
        expect([path, (await people.ask('admin', method, path)).json.code]).toEqual([
          path,
          'AUTH_INSUFFICIENT_PRIVILEGE',
        ])
        expect((await people.ask('', method, path)).status).toBe(401)
      }
      expect(await tasks.list(10)).toEqual([])
    })

    test('a log clean-up is asked for, one at a time, and seen in the list, as the current one and by its id', async () => {
      for (const query of ['', '?target_timestamp=', '?target_timestamp=soon', '?target_timestamp=99999999999']) {
        const { status, json } = await people.ask('root', 'POST', `/api/system-task/log-cleanup${query}`)
        expect([status, json.success]).toEqual([200, false])
      }
      expect(await data('GET', '/api/system-task/current?type=log_cleanup')).toBeNull()
      const task = await data('POST', '/api/system-task/log-cleanup?target_timestamp=1000')
      expect(task).toEqual({
        id: expect.any(Number),
        task_id: expect.stringMatching(/^systask_[0-9a-zA-Z]{32}$/),
        type: 'log_cleanup',
        status: 'pending',
        active_key: 'log_cleanup',
        payload: { target_timestamp: 1_000, batch_size: 100 },
        state: null,
        result: null,
        error: '',
        locked_by: '',
        created_at: expect.any(Number),
        updated_at: expect.any(Number),
      })
      expect((await people.ask('root', 'POST', '/api/system-task/log-cleanup?target_timestamp=1')).status).toBe(409)
      expect(await data('GET', '/api/system-task/current?type=log_cleanup')).toEqual(task)
      expect(await data('GET', '/api/system-task/current')).toEqual(task)
      expect(await data('GET', '/api/system-task/current?type=channel_test')).toBeNull()
      expect(await data('GET', `/api/system-task/${task.task_id}`)).toEqual(task)
      expect(await data('GET', '/api/system-task/list?limit=500')).toEqual([task])
      expect((await people.ask('root', 'GET', '/api/system-task/systask_none')).status).toBe(404)

      await tasks.end((await tasks.claim(['log_cleanup']))!, { total: 1 }, { status: 'failed', error: 'no' })
      const ended = await data('GET', `/api/system-task/${task.task_id}`)
      expect(ended).toMatchObject({ status: 'failed', error: 'no', state: { total: 1 }, locked_by: 'worker-1' })
      expect('active_key' in ended).toBe(false)
    })

    test('the older way to delete call records waits for the task and gives the number of rows', async () => {
      const { logs } = testDb.db.tables
      const row = { type: 2, content: '', requestId: '' }
      await testDb.db
        .insert(logs)
        .values([...Array.from({ length: 250 }, () => ({ ...row, createdAt: 500 })), { ...row, createdAt: 1_000 }])
      const runner = createTaskRunner({
        tasks,
        kinds: [logCleanUpTask((wanted, run) => cleanLogs(testDb.db, wanted, run))],
        role: roleOf('master'),
        ttlMs: TTL_MS,
        log: silentLog,
        clock: systemClock,
      })
      runner.start()
      expect(await data('DELETE', '/api/log/?target_timestamp=1000')).toBe(250)
      expect(await testDb.db.$count(logs)).toBe(1)
      await runner.stop()
    }, 60_000)

    test('nodes are listed; those that are not there any more can be forgotten, others not', async () => {
      const { systemInstances } = testDb.db.tables
      await beat('one')
      await beat('two', 'two-a')
      await beat('two', 'two-b')
      const nodes = await data('GET', '/api/system-info/instances')
      expect(nodes.map((node: { node_name: string }) => node.node_name)).toEqual(['one', 'two', 'two#2'])
      expect(nodes[0]).toEqual({
        node_name: 'one',
        status: 'online',
        stale_after_seconds: 90,
        started_at: 1_700_000_000,
        last_seen_at: expect.any(Number),
        info: {
          schema_version: 1,
          host: { hostname: 'h' },
          node: {
            id: 'one',
            name: 'one',
            source: 'hostname',
            manually_configured: false,
            should_configure_manually: true,
          },
          role: { is_master: true },
          resources: {
            cpu: { usage_percent: 1 },
            memory: { usage_percent: 2 },
            storage: { total_bytes: 100, used_bytes: 40, free_bytes: 60, used_percent: 40 },
          },
          runtime: { goos: 'linux', goarch: 'arm64', version: 'v1', started_at: 1_700_000_000 },
        },
      })
      const online = await people.ask('root', 'DELETE', '/api/system-info/instances/one')
      expect([online.status, online.json.success]).toEqual([200, false])
      const unknown = await people.ask('root', 'DELETE', '/api/system-info/instances/nobody')
      expect([unknown.status, unknown.json.success]).toEqual([200, false])
      await testDb.db.update(systemInstances).set({ lastSeenAt: 1 }).where(eq(systemInstances.nodeName, 'two#2'))
      await testDb.db.update(systemInstances).set({ lastSeenAt: 1 }).where(eq(systemInstances.nodeName, 'two'))
      expect(await data('DELETE', `/api/system-info/instances/${encodeURIComponent('two#2')}`)).toEqual({
        deleted_count: 1,
      })
      expect(await data('DELETE', '/api/system-info/stale-instances')).toEqual({ deleted_count: 1 })
      expect((await data('GET', '/api/system-info/instances')).length).toBe(1)
    })

    test('the cluster view has its jobs, also those that never ran', async () => {
      const view = await data('GET', '/api/cluster')
      expect(view).toMatchObject({ answered_by: 'node-0', nodes: [], leases: [], differences: [] })
      expect(view.jobs).toEqual([
        {
          name: 'clean-sessions',
          on: 'master',
          period_ms: 60_000,
          outcome: 'never',
          holder: '',
          ran_on: '',
          last_started_at_ms: 0,
          last_ended_at_ms: 0,
          last_good_at_ms: 0,
          next_at_ms: 0,
          duration_ms: 0,
          runs: 0,
          failures: 0,
          last_error: '',
        },
      ])
    })
  })
}
