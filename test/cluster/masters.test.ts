/**
 * Two masters of one name and a slave whose clock is an hour ahead: who they are is seen on every node, jobs and tasks run on
 * masters alone, and a task survives in good order that its worker is frozen, thawed and killed.
 */
import { expect, test } from 'bun:test'
import { existsSync } from 'node:fs'
import { gt, lt } from 'drizzle-orm'
import { createAdminClient } from '../support/admin-client.ts'
import { openCluster } from '../support/cluster.ts'
import { SERVER_ENGINE, sqlServer } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import { createNode, type RealNode } from '../support/node.ts'
import { openTcpProxy } from '../support/tcp-proxy.ts'

const LEDGER_LEASE_SEC = 3
const JOB_LEASE_SEC = 2
const SKEW_MS = 3_600_000
const OLD_ROWS = 12_000
const OLD_SEC = 1_000
const patience = { withinMs: 60_000, everyMs: 100 }
/** Where libfaketime is not installed, the slave has the right time. */
const FAKE_TIME = [
  '/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1',
  '/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1',
].find(existsSync)

const skewed: Readonly<Record<string, string>> = FAKE_TIME
  ? { LD_PRELOAD: FAKE_TIME, FAKETIME: `+${SKEW_MS / 1000}s`, FAKETIME_DONT_FAKE_MONOTONIC: '1' }
  : {}

interface View {
  readonly answered_by: string
  readonly nodes: readonly {
    readonly id: string
    readonly name: string
    readonly address: string
    readonly role: string
    readonly state: string
    readonly workers: readonly {
      readonly clock_ahead_ms?: number
      readonly dependencies: readonly { readonly name: string; readonly form: string; readonly up: boolean }[]
    }[]
  }[]
  readonly jobs: readonly {
    readonly name: string
    readonly period_ms: number
    readonly ran_on: string
    readonly runs: number
  }[]
  readonly differences: readonly { readonly name: string }[]
}
interface TaskRow {
  readonly task_id: string
  readonly status: string
  readonly error: string
  readonly locked_by: string
  readonly state: { readonly total: number; readonly processed: number } | null
  readonly result: { readonly deleted_count: number } | null
}
interface Instance {
  readonly node_name: string
  readonly status: string
}

const signalAll = async (node: RealNode, signal: 'SIGSTOP' | 'SIGCONT'): Promise<void> => {
  for (const pid of [node.supervisorPid(), ...(await node.workerPids())]) process.kill(pid, signal)
}

const engine = SERVER_ENGINE
if (engine) {
  test('masters of one name, a slave with a wrong clock, a frozen worker and a killed one: nothing is hidden, doubled or undone', async () => {
    const cluster = await openCluster({
      env: { LEDGER_LEASE: String(LEDGER_LEASE_SEC), JOB_LEASE: String(JOB_LEASE_SEC) },
      envOf: (node): Readonly<Record<string, string>> =>
        node < 2 ? { NODE_NAME: 'twin', NODE_TYPE: 'master' } : skewed,
    })
    try {
      const { nodes, testDb } = cluster
      const { logs } = testDb.db.tables
      const asked = nodes.map((node) => createAdminClient(() => node.url))
      const slave = asked[2]!
      const stateOf = (view: View) => view.nodes.map(({ name, role, state }) => `${name} ${role} ${state}`).sort()
      const all = ['node-2 slave live', 'twin master live', 'twin#2 master live']

      // Every node answers for all of them.
      for (const client of asked) {
        const view = await eventually(
          'all three are seen',
          async () => {
            const now = await client.call<View>('GET', '/api/cluster')
            return stateOf(now).join() === all.join() ? now : undefined
          },
          patience,
        )
        expect(new Set(view.nodes.map(({ id }) => id)).size).toBe(3)
        const skewed = view.nodes.filter(({ workers }) => Math.abs(workers[0]?.clock_ahead_ms ?? 0) > 2_000)
        expect(skewed.map(({ name }) => name)).toEqual(FAKE_TIME ? ['node-2'] : [])
        expect(view.differences.some(({ name }) => name === 'clock')).toBe(FAKE_TIME !== undefined)
        for (const { workers } of view.nodes)
          expect(workers[0]!.dependencies.map(({ name, form, up }) => `${name} ${form} ${up}`)).toEqual([
            'database mysql true',
            'Redis single true',
          ])
      }
      const instances = async (): Promise<readonly string[]> =>
        (await slave.call<Instance[]>('GET', '/api/system-info/instances')).map(
          ({ node_name, status }) => `${node_name} ${status}`,
        )
      await eventually(
        'three rows',
        async () => (await instances()).join() === 'node-2 online,twin online,twin#2 online',
        patience,
      )

      // Jobs ran, and the slave has had no part in them.
      const { jobs } = await eventually(
        'the jobs have run',
        async () => {
          const view = await slave.call<View>('GET', '/api/cluster')
          const due = view.jobs.filter(({ period_ms }) => period_ms > 0)
          return due.every(({ runs }) => runs > 0) ? { jobs: due } : undefined
        },
        patience,
      )
      expect(jobs.map(({ name }) => name)).toContain('clean-cluster')
      for (const { ran_on } of jobs) expect(ran_on).toStartWith('twin-')
      const hourly = jobs.find(({ name }) => name === 'clean-cluster')!
      expect(hourly.runs).toBe(1)

      // A long task, asked for on the slave.
      const row = { createdAt: OLD_SEC - 1, type: 3, content: '', requestId: '' }
      for (let left = OLD_ROWS; left > 0; left -= 1_000)
        await testDb.db.insert(logs).values(Array.from({ length: Math.min(left, 1_000) }, () => row))
      const oldRows = (): Promise<number> => testDb.db.$count(logs, lt(logs.createdAt, OLD_SEC))
      cluster.databaseProxy.delay(25)
      const task = await slave.call<TaskRow>('POST', `/api/system-task/log-cleanup?target_timestamp=${OLD_SEC}`)
      const taskNow = (id = task.task_id): Promise<TaskRow> => slave.call<TaskRow>('GET', `/api/system-task/${id}`)
      const running = await eventually(
        'it is under way',
        async () => {
          const now = await taskNow()
          return now.status === 'running' && (await oldRows()) < OLD_ROWS ? now : undefined
        },
        patience,
      )
      const view = await slave.call<View>('GET', '/api/cluster')
      const worker = view.nodes.find(({ id }) => running.locked_by.startsWith(`twin-${id.slice(0, 8)}-`))!
      expect(worker.role).toBe('master')
      const frozen = nodes.find(({ url }) => new URL(url).port === worker.address.split(':').at(-1))!
      await signalAll(frozen, 'SIGSTOP')
      const frozenAtMs = performance.now()
      cluster.databaseProxy.delay(0)

      // Its task has failed, with what it had done; the node is seen to be silent, and whoever asks again gets the rest done.
      const failed = await eventually(
        'its task has failed',
        async () => {
          const now = await taskNow()
          return now.status === 'failed' ? now : undefined
        },
        patience,
      )
      const failedAfterMs = Math.round(performance.now() - frozenAtMs)
      expect(failed.error).toBe('task lease expired')
      const left = await oldRows()
      expect(left).toBeGreaterThan(0)
      await eventually(
        'the frozen node is seen',
        async () => {
          const now = await slave.call<View>('GET', '/api/cluster')
          return (
            now.nodes.find(({ id }) => id === worker.id)?.state !== 'live' &&
            (await instances()).includes(`${worker.name} stale`)
          )
        },
        patience,
      )
      const again = await slave.call<TaskRow>('POST', `/api/system-task/log-cleanup?target_timestamp=${OLD_SEC}`)
      const done = await eventually(
        'the rest is done',
        async () => {
          const now = await taskNow(again.task_id)
          return now.status === 'succeeded' ? now : undefined
        },
        patience,
      )
      expect(done.result).toEqual({ deleted_count: left })
      expect(done.locked_by.startsWith('twin-')).toBe(true)
      expect(done.locked_by).not.toBe(failed.locked_by)
      expect(await oldRows()).toBe(0)

      // It comes back, and changes nothing of what was decided without it.
      await signalAll(frozen, 'SIGCONT')
      await eventually(
        'it is there again',
        async () => stateOf(await slave.call<View>('GET', '/api/cluster')).join() === all.join(),
        patience,
      )
      expect(await taskNow()).toEqual(failed)
      expect(await taskNow(again.task_id)).toEqual(done)

      // A node that is killed shows as well, and comes back under its name.
      if (process.env['SOAK']) {
        await frozen.kill()
        await eventually(
          'the killed node is seen',
          async () => (await instances()).includes(`${worker.name} stale`),
          patience,
        )
        await eventually(
          'it is not live',
          async () => {
            const now = await slave.call<View>('GET', '/api/cluster')
            return now.nodes.find(({ id }) => id === worker.id)?.state !== 'live'
          },
          patience,
        )
        frozen.start()
        await frozen.ready(60_000)
        await eventually(
          'all are there',
          async () => (await instances()).every((text) => text.endsWith('online')),
          patience,
        )
        expect((await instances()).length).toBe(3)
      }
      const last = (await slave.call<View>('GET', '/api/cluster')).jobs.find(({ name }) => name === 'clean-cluster')!
      // Restarts and fail-overs neither skip nor double what is due once an hour.
      expect(last.runs).toBe(1)

      // Once no node has a lease any more, none can take calls, and each says why; with the database they are back.
      const readiness = async (node: RealNode) => {
        const reply = await fetch(`${node.url}/readyz`)
        return { status: reply.status, text: await reply.text() }
      }
      cluster.databaseProxy.refuse()
      for (const node of nodes)
        await eventually(
          'the node is not ready',
          async () => {
            const { status, text } = await readiness(node)
            return status === 503 && text.includes('LEDGER_LEASE') && text.includes('{"name":"database","up":false}')
          },
          patience,
        )
      cluster.databaseProxy.admit()
      for (const node of nodes)
        await eventually('the node is ready again', async () => (await readiness(node)).status === 200, patience)
      console.log(
        `of ${OLD_ROWS} rows ${OLD_ROWS - left} went before the worker froze, ${left} after; ` +
          `its task had failed ${failedAfterMs} ms later, the lease is ${JOB_LEASE_SEC} s`,
      )
      await cluster.stop()
    } finally {
      await cluster.remove()
    }
  }, 240_000)

  test('a log database that is dead keeps no node from starting and fills no log; what waits for it is done when it is there', async () => {
    const main = await engine.freshDb({ isEmpty: true })
    const logDb = await engine.freshDb({ isEmpty: true, only: 'logs' })
    const proxy = await openTcpProxy(await sqlServer())
    proxy.refuse()
    const node = await createNode({
      env: {
        SQL_DSN: main.env.SQL_DSN ?? '',
        LOG_SQL_DSN: (logDb.env.SQL_DSN ?? '').replace(/\(([^)]*):\d+\)/, `(127.0.0.1:${proxy.port})`),
        WORKERS: '1',
        LOG_LEVEL: 'info',
      },
    })
    try {
      node.start()
      await node.ready(60_000)
      const admin = createAdminClient(() => node.url)
      await admin.setUp()
      const failures = async (): Promise<number> => {
        const { jobs } = await admin.call<{ jobs: readonly { name: string; failures: number }[] }>(
          'GET',
          '/api/cluster',
        )
        return jobs.find(({ name }) => name === 'sync-log-schema')?.failures ?? 0
      }
      await eventually('it was tried several times', async () => (await failures()) >= 2, patience)
      // A note of what root did is told by itself.
      const lines = (await node.output()).split('\n').filter((line) => /"error"/.test(line) && !/audit row/.test(line))
      console.log(`${lines.length} lines about a dead log database after ${await failures()} tries`)
      expect(lines.filter((line) => line.includes('sync-log-schema')).length).toBe(1)
      expect(lines.filter((line) => line.includes('stack')).length).toBe(0)
      expect(lines.length).toBeLessThanOrEqual(10)
      proxy.admit()
      await eventually('the schema is there', async () => (await failures()) === 0, patience)
      // Call records live there now, and there they are deleted.
      const { logs } = logDb.db.tables
      const row = { type: 3, content: '', requestId: '' }
      await logDb.db
        .insert(logs)
        .values([...Array(600).fill({ ...row, createdAt: 5 }), { ...row, createdAt: 2_000_000_000 }])
      expect(await admin.call<number>('DELETE', '/api/log/?target_timestamp=1000')).toBe(600)
      expect(await logDb.db.$count(logs, gt(logs.createdAt, 1_999_999_999))).toBe(1)
      expect(await node.stop()).toBe(0)
    } finally {
      await node.remove()
      await proxy.close()
      await logDb.close()
      await main.close()
    }
  }, 180_000)
}
