/** What a node uses, and its log files, over HTTP: root alone; the files in use are never deleted. */
import { afterEach, beforeEach, describe, expect, test } from 'bun:test'
import { mkdtemp, readdir, rm, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { performanceRoutes } from '../../src/admin/performance-routes.ts'
import type { Load } from '../../src/domain/cluster/index.ts'
import { OPTION_DEFINITIONS } from '../../src/domain/options/definitions/index.ts'
import { systemClock } from '../../src/lib/clock.ts'
import { createLogFiles } from '../../src/lib/log-files.ts'
import { asPeople } from './as-people.ts'
import type { ReplyJson } from './harness.ts'

const LOAD: Load = {
  cpuPercent: 12.5,
  memoryPercent: 30,
  memoryBytes: 300,
  memoryLimitBytes: 1_000,
  diskPercent: 40,
  disk: { totalBytes: 100, freeBytes: 60 },
}

let folder: string
let people: ReturnType<typeof asPeople>
let looks: number
let collected: number
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'headgate-logs-'))
  looks = collected = 0
  people = asPeople((http) => [
    performanceRoutes({
      options: { get: (key) => OPTION_DEFINITIONS.find((option) => option.key === key)?.default as never },
      guard: { load: () => (looks > 0 ? LOAD : undefined), look: async () => void looks++, overload: () => undefined },
      calls: () => 7,
      logFiles: createLogFiles(folder),
      nodeName: 'node-0',
      isContainer: true,
      collectGarbage: () => void collected++,
      http,
      clock: systemClock,
    }),
  ])
})
afterEach(() => rm(folder, { recursive: true, force: true }))

const data = async (method: string, path: string): Promise<ReplyJson> => {
  const { status, json } = await people.ask('root', method, `/api/performance${path}`)
  expect({ status, success: json.success }).toEqual({ status: 200, success: true })
  return json.data as ReplyJson
}

test('root alone may see and do it', async () => {
  for (const [method, path] of [
    ['GET', 'stats'],
    ['DELETE', 'disk_cache'],
    ['POST', 'reset_stats'],
    ['POST', 'gc'],
    ['GET', 'logs'],
    ['DELETE', 'logs?mode=by_count&value=1'],
  ] as const) {
    const path2 = `/api/performance/${path}`
    expect((await people.ask('admin', method, path2)).status).toBe(403)
    expect((await people.ask('', method, path2)).status).toBe(401)
    expect((await people.ask('root', method, path2)).json.success).toBe(true)
  }
  expect(collected).toBe(1)
})

test('figures are those of the node that answers, also before its first look', async () => {
  expect(await data('GET', '/stats')).toMatchObject({
    memory_stats: { sys: 300, num_goroutine: 7 },
    disk_space_info: { total: 100, free: 60, used: 40, used_percent: 40 },
    config: { monitor_enabled: true, monitor_cpu_threshold: 90, monitor_disk_threshold: 95, disk_cache_enabled: false },
    load: { node: 'node-0', cpu_percent: 12.5, memory_percent: 30, memory_limit_bytes: 1_000, overloaded: '' },
  })
  expect(looks).toBe(1)
})

describe('log files', () => {
  const DAY_SEC = 86_400
  /** @param pid of the process that writes it */
  const made = async (day: string, pid: number, ageDays: number): Promise<string> => {
    const name = `headgate-${day}-120000-worker0-${pid}.log`
    await writeFile(join(folder, name), 'line\n')
    const atSec = Date.now() / 1000 - ageDays * DAY_SEC
    await utimes(join(folder, name), atSec, atSec)
    return name
  }
  // No process has a number this high.
  const ENDED = 2 ** 30

  test('are listed newest first; by count, the newest stay', async () => {
    const oldest = await made('20260101', ENDED, 9)
    const newer = await made('20260102', ENDED, 8)
    const newest = await made('20260103', ENDED, 7)
    await writeFile(join(folder, 'another.log'), 'not ours')
    const listed = await data('GET', '/logs')
    expect(listed).toMatchObject({ log_dir: folder, enabled: true, file_count: 3, total_size: 15 })
    expect((listed['files'] as ReplyJson[]).map(({ name }) => name as unknown)).toEqual([newest, newer, oldest])
    expect(await data('DELETE', '/logs?mode=by_count&value=2')).toEqual({
      deleted_count: 1,
      freed_bytes: 5,
      failed_files: [],
    })
    expect((await readdir(folder)).sort()).toEqual(['another.log', newer, newest])
  })

  test('by days, those written since stay, and the one that a living process writes', async () => {
    await made('20260101', process.pid, 9)
    const inUse = await made('20260102', process.pid, 8)
    await made('20260103', ENDED, 7)
    const fresh = await made('20260104', ENDED, 1)
    expect(await data('DELETE', '/logs?mode=by_days&value=3')).toMatchObject({ deleted_count: 2 })
    expect((await readdir(folder)).sort()).toEqual([inUse, fresh])
    expect(people.audited.map(({ action }) => action)).toEqual(['log_file.delete'])
  })

  test('nothing is deleted for a mode or number that makes no sense', async () => {
    const name = await made('20260101', ENDED, 9)
    for (const query of ['', '?mode=by_days', '?mode=by_days&value=0', '?mode=toString&value=1', '?mode=all&value=1'])
      expect((await people.ask('root', 'DELETE', `/api/performance/logs${query}`)).json.success).toBe(false)
    expect(await readdir(folder)).toEqual([name])
  })
})
