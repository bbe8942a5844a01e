/**
 * What differs between nodes without keeping them from working: each instance tells its settings in its row, and whoever
 * looks compares them. What must not differ is `agreement.ts`.
 */
import { inArray } from 'drizzle-orm'
import type { Config } from '../../config.ts'
import { type Db, parseDsn } from '../../db/index.ts'
import { redactAddress } from '../../lib/redact.ts'
import { WORKING_STATES } from './instances.ts'

/** What an instance tells of itself, for people; addresses without user and password. */
export interface NodeSettings {
  readonly database: string
  readonly logDatabase: string
  readonly redis: string
  readonly timeZone: string
  readonly frontendBaseUrl: string
  readonly syncFrequencySec: number
  /** What the node's clock was ahead of the database's when it started, ms. */
  readonly clockAheadMs: number
}

export interface Difference {
  /** Name of the variable, or `version`, `time zone`, `clock`. */
  readonly name: string
  readonly values: readonly { readonly value: string; readonly nodes: readonly string[] }[]
}

const NAMES: Readonly<Record<Exclude<keyof NodeSettings, 'clockAheadMs'>, string>> = {
  database: 'SQL_DSN',
  logDatabase: 'LOG_SQL_DSN',
  redis: 'REDIS_CONN_STRING',
  timeZone: 'time zone',
  frontendBaseUrl: 'FRONTEND_BASE_URL',
  syncFrequencySec: 'SYNC_FREQUENCY',
}
const SKEW_MS = 2_000

/** @param clockAheadMs what this node's clock is ahead of the database's */
export function nodeSettings(config: Config, clockAheadMs: number): NodeSettings {
  return {
    database: addressOf(config.sqlDsn),
    logDatabase: addressOf(config.logSqlDsn),
    redis: redactAddress(config.redisConnString),
    timeZone: config.timeZone || Intl.DateTimeFormat().resolvedOptions().timeZone,
    frontendBaseUrl: config.frontendBaseUrl,
    syncFrequencySec: config.syncFrequencySec,
    clockAheadMs,
  }
}

function addressOf(dsn: string): string {
  const parsed = parseDsn(dsn)
  return 'host' in parsed ? `${parsed.socketPath ?? `${parsed.host}:${parsed.port}`}/${parsed.database}` : ''
}

/** What an instance tells in its row, under this name. */
export const settingsInfo = (settings: NodeSettings): Readonly<Record<string, unknown>> => ({ settings })

/** A node that tells nothing yet, since it does not run. */
export interface Candidate {
  readonly node: string
  readonly version: string
  readonly settings: NodeSettings
}

/**
 * @param candidate is compared with the working instances as if it were one of them
 * @returns what they do not have alike, and clocks that are more than two seconds off
 */
export async function readDifferences(db: Db, candidate?: Candidate): Promise<readonly Difference[]> {
  const { clusterInstances: t } = db.tables
  const rows = await db
    .select({ node: t.node, version: t.version, info: t.info })
    .from(t)
    .where(inArray(t.state, [...WORKING_STATES]))
  if (candidate && rows.length > 0) rows.push({ ...candidate, info: JSON.stringify(settingsInfo(candidate.settings)) })
  const told = rows.flatMap(({ info, node }) => {
    const settings = readSettings(info)
    return settings ? [{ node, settings }] : []
  })
  const skewed = told.filter(({ settings }) => Math.abs(Number(settings.clockAheadMs ?? 0)) > SKEW_MS)
  return [
    ...differing(
      'version',
      rows.map(({ node, version }) => ({ node, value: version })),
    ),
    ...Object.entries(NAMES).flatMap(([key, name]) =>
      differing(
        name,
        told.map(({ node, settings }) => ({ node, value: String(settings[key as keyof NodeSettings] ?? '') })),
      ),
    ),
    ...(skewed.length === 0
      ? []
      : [
          {
            name: 'clock',
            values: skewed.map(({ node, settings }) => ({
              value: clockText(settings.clockAheadMs ?? 0),
              nodes: [node],
            })),
          },
        ]),
  ]
}

function differing(name: string, told: readonly { readonly node: string; readonly value: string }[]): Difference[] {
  const nodes = Map.groupBy(told, ({ value }) => value)
  if (nodes.size < 2) return []
  const values = [...nodes].map(([value, all]) => ({ value, nodes: [...new Set(all.map(({ node }) => node))].sort() }))
  return [{ name, values: values.sort((a, b) => (a.value < b.value ? -1 : 1)) }]
}

const clockText = (aheadMs: number): string =>
  `${(Math.abs(aheadMs) / 1000).toFixed(1)} s ${aheadMs > 0 ? 'ahead of' : 'behind'} the database at its start`

function readSettings(info: string | null): Partial<NodeSettings> | undefined {
  try {
    const { settings } = JSON.parse(info ?? '{}') as { settings?: unknown }
    return typeof settings === 'object' && settings !== null ? settings : undefined
  } catch {
    // Written by nobody of ours: it says nothing.
    return undefined
  }
}
