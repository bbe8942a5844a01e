/**
 * What the node that answers uses of memory and disk, and its log files, for root, as New API's clients know it. Bodies are
 * held in memory while they are needed and never kept on disk, so figures of a cache are those of an empty one.
 */
import { Elysia, t } from 'elysia'
import { ROLE } from '../domain/accounts/index.ts'
import type { LoadGuard } from '../domain/cluster/index.ts'
import type { Options } from '../domain/options/index.ts'
import { GatewayError } from '../errors.ts'
import type { Clock } from '../lib/clock.ts'
import type { LogFiles } from '../lib/log-files.ts'
import { type AdminHttp, envelope, ok, plainEnvelope } from './http.ts'

const DAY_MS = 86_400_000
const MIB = 2 ** 20

const count = t.Integer()
const statsJson = t.Object({
  cache_stats: t.Object({
    active_disk_files: count,
    current_disk_usage_bytes: count,
    active_memory_buffers: t.Integer({ description: 'Calls being answered' }),
    current_memory_usage_bytes: count,
    disk_cache_hits: count,
    memory_cache_hits: count,
    disk_cache_max_bytes: count,
    disk_cache_threshold_bytes: count,
  }),
  memory_stats: t.Object({
    alloc: t.Integer({ description: 'Heap in use by the process that answers, bytes' }),
    total_alloc: t.Integer({ description: 'Its whole heap, bytes' }),
    sys: t.Integer({ description: 'Resident memory of the node’s workers, bytes' }),
    num_gc: t.Integer({ description: 'Not counted' }),
    num_goroutine: t.Integer({ description: 'Calls being answered' }),
  }),
  disk_cache_info: t.Object({ path: t.String(), exists: t.Boolean(), file_count: count, total_size: count }),
  disk_space_info: t.Object({ total: count, free: count, used: count, used_percent: t.Number() }),
  config: t.Object({
    disk_cache_enabled: t.Boolean(),
    disk_cache_threshold_mb: count,
    disk_cache_max_size_mb: count,
    disk_cache_path: t.String(),
    is_running_in_container: t.Boolean(),
    monitor_enabled: t.Boolean(),
    monitor_cpu_threshold: count,
    monitor_memory_threshold: count,
    monitor_disk_threshold: count,
  }),
  load: t.Object({
    node: t.String(),
    cpu_percent: t.Number({ description: 'Of the CPUs that the node may use' }),
    memory_percent: t.Number({ description: 'Of what its container, or the machine, may have' }),
    memory_limit_bytes: count,
    overloaded: t.String({ description: 'cpu, memory or disk while calls are refused, else empty' }),
  }),
})
const logsJson = t.Object({
  log_dir: t.String(),
  enabled: t.Boolean(),
  file_count: count,
  total_size: count,
  oldest_time: t.Optional(t.String()),
  newest_time: t.Optional(t.String()),
  files: t.Array(t.Object({ name: t.String(), size: count, mod_time: t.String() })),
})
const deletedJson = t.Object({ deleted_count: count, freed_bytes: count, failed_files: t.Array(t.String()) })

export const performanceRoutes = (deps: {
  readonly options: Pick<Options, 'get'>
  readonly guard: Pick<LoadGuard, 'load' | 'look' | 'overload'>
  readonly calls: () => number
  readonly logFiles: LogFiles
  readonly nodeName: string
  readonly isContainer: boolean
  readonly collectGarbage: () => void
  readonly http: AdminHttp
  readonly clock: Clock
}) => {
  const { options, guard, calls, logFiles, http, clock } = deps
  const setting = <const K extends SettingName>(name: K) => options.get(`performance_setting.${name}`)

  return new Elysia({ prefix: '/api/performance', detail: { tags: ['operation'] } })
    .get(
      '/stats',
      async ({ request }) => {
        await http.actor(request, ROLE.root)
        if (!guard.load()) await guard.look()
        const load = guard.load()
        const { totalBytes = 0, freeBytes = 0 } = load?.disk ?? {}
        const { heapUsed, heapTotal, rss } = process.memoryUsage()
        return ok({
          cache_stats: {
            active_disk_files: 0,
            current_disk_usage_bytes: 0,
            active_memory_buffers: calls(),
            current_memory_usage_bytes: 0,
            disk_cache_hits: 0,
            memory_cache_hits: 0,
            disk_cache_max_bytes: setting('disk_cache_max_size_mb') * MIB,
            disk_cache_threshold_bytes: setting('disk_cache_threshold_mb') * MIB,
          },
          memory_stats: {
            alloc: heapUsed,
            total_alloc: heapTotal,
            sys: load?.memoryBytes ?? rss,
            num_gc: 0,
            num_goroutine: calls(),
          },
          disk_cache_info: { path: setting('disk_cache_path'), exists: false, file_count: 0, total_size: 0 },
          disk_space_info: {
            total: totalBytes,
            free: freeBytes,
            used: totalBytes - freeBytes,
            used_percent: load?.diskPercent ?? 0,
          },
          config: {
            disk_cache_enabled: setting('disk_cache_enabled'),
            disk_cache_threshold_mb: setting('disk_cache_threshold_mb'),
            disk_cache_max_size_mb: setting('disk_cache_max_size_mb'),
            disk_cache_path: setting('disk_cache_path'),
            is_running_in_container: deps.isContainer,
            monitor_enabled: setting('monitor_enabled'),
            monitor_cpu_threshold: setting('monitor_cpu_threshold'),
            monitor_memory_threshold: setting('monitor_memory_threshold'),
            monitor_disk_threshold: setting('monitor_disk_threshold'),
          },
          load: {
            node: deps.nodeName,
            cpu_percent: load?.cpuPercent ?? 0,
            memory_percent: load?.memoryPercent ?? 0,
            memory_limit_bytes: load?.memoryLimitBytes ?? 0,
            overloaded: guard.overload() ?? '',
          },
        })
      },
      { response: envelope(statsJson), detail: { summary: 'What this node uses' } },
    )
    .delete(
      '/disk_cache',
      async ({ request }) => {
        await http.actor(request, ROLE.root)
        return { success: true, message: 'No bodies are kept on disk' }
      },
      { response: plainEnvelope, detail: { summary: 'Empty the cache on disk, which never holds anything' } },
    )
    .post(
      '/reset_stats',
      async ({ request }) => {
        await http.actor(request, ROLE.root)
        return { success: true, message: 'No hits are counted' }
      },
      { response: plainEnvelope, detail: { summary: 'Reset the hits of the cache, which has none' } },
    )
    .post(
      '/gc',
      async ({ request }) => {
        await http.actor(request, ROLE.root)
        deps.collectGarbage()
        return { success: true, message: 'Memory was collected in the process that answered' }
      },
      { response: plainEnvelope, detail: { summary: 'Collect unused memory now' } },
    )
    .get(
      '/logs',
      async ({ request }) => {
        await http.actor(request, ROLE.root)
        const files = await logFiles.list()
        const timeOf = (file: (typeof files)[number]): string => new Date(file.writtenAtMs).toISOString()
        const [newest, oldest] = [files[0], files.at(-1)]
        return ok({
          log_dir: logFiles.directory,
          enabled: logFiles.directory !== '',
          file_count: files.length,
          total_size: files.reduce((sum, { bytes }) => sum + bytes, 0),
          ...(oldest && { oldest_time: timeOf(oldest) }),
          ...(newest && { newest_time: timeOf(newest) }),
          files: files.map((file) => ({ name: file.name, size: file.bytes, mod_time: timeOf(file) })),
        })
      },
      { response: envelope(logsJson), detail: { summary: 'Log files of this node, newest first' } },
    )
    .delete(
      '/logs',
      async ({ request, query }) => {
        const actor = await http.actor(request, ROLE.root)
        const value = Number(query.value)
        if (!Number.isInteger(value) || value < 1)
          throw new GatewayError('invalid_parameters', { params: { reason: 'value must be a whole number from 1' } })
        const oldestMs = clock.now() - value * DAY_MS
        const rules = {
          by_count: (_file: unknown, newer: number) => newer >= value,
          by_days: (file: { readonly writtenAtMs: number }) => file.writtenAtMs < oldestMs,
        } as const
        const rule = Object.hasOwn(rules, query.mode ?? '') ? rules[query.mode as keyof typeof rules] : undefined
        if (!rule) throw new GatewayError('invalid_parameters', { params: { reason: 'mode is by_count or by_days' } })
        const { count, bytes, failed } = await logFiles.remove(rule)
        await http.audit(actor, 'log_file.delete', { mode: query.mode, value, count })
        return ok({ deleted_count: count, freed_bytes: bytes, failed_files: [...failed] })
      },
      {
        query: t.Object({
          mode: t.Optional(t.String({ description: 'by_count keeps the newest, by_days those written since' })),
          value: t.Optional(t.String({ description: 'How many files or days' })),
        }),
        response: envelope(deletedJson),
        detail: { summary: 'Delete old log files of this node; those in use stay' },
      },
    )
}

type SettingName =
  | 'disk_cache_enabled'
  | 'disk_cache_threshold_mb'
  | 'disk_cache_max_size_mb'
  | 'disk_cache_path'
  | 'monitor_enabled'
  | 'monitor_cpu_threshold'
  | 'monitor_memory_threshold'
  | 'monitor_disk_threshold'
