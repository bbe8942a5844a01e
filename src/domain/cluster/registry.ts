/**
 * The nodes as people see them: one row each in `system_instances`, whatever number of workers it has. Owns the names: of two
 * nodes that call themselves alike the second is shown as `name#2`, so neither hides the other. Who is there is judged by
 * the database's time.
 */
import { and, asc, eq, inArray, like } from 'drizzle-orm'
import { type Db, DbError } from '../../db/index.ts'
import type { NodeLoad } from './node-status.ts'

/** Beside what the registry adds itself; field names are those of New API's clients. */
export interface NodeInfo {
  readonly schema_version: 1
  readonly node: {
    readonly name: string
    readonly source: 'manual' | 'hostname'
    readonly manually_configured: boolean
    readonly should_configure_manually: boolean
  }
  readonly role: { readonly is_master: boolean }
  readonly runtime: {
    readonly version: string
    readonly goos: string
    readonly goarch: string
    readonly started_at: number
  }
  readonly host: { readonly hostname: string }
  readonly resources: {
    readonly cpu: { readonly usage_percent: number }
    readonly memory: { readonly usage_percent: number }
    readonly storage: {
      readonly total_bytes: number
      readonly used_bytes: number
      readonly free_bytes: number
      readonly used_percent: number
    }
  }
}

/** @param node `arch` and `platform` as this runtime names them; times in Unix seconds */
export function nodeInfo(
  node: {
    readonly name: string
    readonly isNamed: boolean
    readonly isMaster: boolean
    readonly version: string
    readonly hostname: string
    readonly platform: string
    readonly arch: string
    readonly startedAtSec: number
  },
  { cpuPercent, memoryPercent, disk }: NodeLoad,
): NodeInfo {
  const usedBytes = disk.totalBytes - disk.freeBytes
  return {
    schema_version: 1,
    node: {
      name: node.name,
      source: node.isNamed ? 'manual' : 'hostname',
      manually_configured: node.isNamed,
      should_configure_manually: !node.isNamed,
    },
    role: { is_master: node.isMaster },
    runtime: {
      version: node.version,
      goos: GO_NAMES[node.platform] ?? node.platform,
      goarch: GO_NAMES[node.arch] ?? node.arch,
      started_at: node.startedAtSec,
    },
    host: { hostname: node.hostname },
    resources: {
      cpu: { usage_percent: rounded(cpuPercent) },
      memory: { usage_percent: rounded(memoryPercent) },
      storage: {
        total_bytes: disk.totalBytes,
        used_bytes: usedBytes,
        free_bytes: disk.freeBytes,
        used_percent: disk.totalBytes > 0 ? rounded((usedBytes / disk.totalBytes) * 100) : 0,
      },
    },
  }
}

/** Clients know systems and processors by these names. */
const GO_NAMES: Readonly<Record<string, string>> = { win32: 'windows', x64: 'amd64', ia32: '386' }

const rounded = (value: number): number => Math.round(value * 10) / 10

/** A row of the list; times are Unix seconds of the database. */
export interface RegisteredNode {
  readonly name: string
  readonly isOnline: boolean
  readonly startedAtSec: number
  readonly lastSeenAtSec: number
  readonly info: Readonly<Record<string, unknown>>
}

export type NodeRegistry = ReturnType<typeof createNodeRegistry>

/** More nodes of one name than this are a mistake of another kind. */
const MOST_ALIKE = 50
const NAME_CHARS = 120
const CLAIM_TRIES = 10

/**
 * @param deps.nodeId the same over restarts, another for another node of the same name
 * @param deps.staleAfterSec a node that was not seen for so long is stale
 */
export function createNodeRegistry(deps: {
  readonly db: Db
  readonly name: string
  readonly nodeId: string
  readonly startedAtSec: number
  readonly staleAfterSec: number
}) {
  const { db, name, nodeId, startedAtSec, staleAfterSec } = deps
  const { systemInstances: nodes } = db.tables
  const candidates = Array.from({ length: MOST_ALIKE }, (_, index) =>
    index === 0 ? name.slice(0, NAME_CHARS) : `${name.slice(0, NAME_CHARS)}#${index + 1}`,
  )
  let claimed: string | undefined

  const isOnline = (row: Row, nowSec: number): boolean =>
    nowSec - (row.lastSeenAt ?? 0) < staleAfterSec && infoOf(row)['stopped'] !== true
  const idOf = (row: Row): unknown => (infoOf(row)['node'] as { id?: unknown } | undefined)?.id

  const claim = (text: string): Promise<string> =>
    db.transaction(async (tx) => {
      const nowSec = Math.floor((await tx.now()) / 1000)
      const rows: readonly Row[] = await tx.lock(tx.select().from(nodes).where(inArray(nodes.nodeName, candidates)))
      const own = rows.find((row) => idOf(row) === nodeId)
      const rowOf = (candidate: string) => rows.find((row) => isSame(row.nodeName, candidate))
      const chosen =
        own?.nodeName ??
        candidates.find((candidate) => {
          const row = rowOf(candidate)
          return row === undefined || !isOnline(row, nowSec)
        }) ??
        candidates[MOST_ALIKE - 1]!
      const seen = { info: text, startedAt: startedAtSec, lastSeenAt: nowSec, updatedAt: nowSec }
      if (rowOf(chosen)) await tx.update(nodes).set(seen).where(eq(nodes.nodeName, chosen))
      else await tx.insert(nodes).values({ nodeName: chosen, createdAt: nowSec, ...seen })
      return chosen
    })
  const claimPatiently = async (text: string): Promise<string> => {
    for (let tries = 1; ; tries++) {
      try {
        return await claim(text)
      } catch (error) {
        // A node of the same name that started at this moment took it.
        if (!(error instanceof DbError && error.kind === 'duplicate') || tries === CLAIM_TRIES) throw error
      }
    }
  }
  /**
   * One statement: a node that is frozen in a transaction would keep another of its name from showing itself.
   * @returns false if another node has the name now, or nobody
   */
  const renew = async (held: string, text: string): Promise<boolean> => {
    const nowSec = Math.floor((await db.now()) / 1000)
    const seen = { info: text, startedAt: startedAtSec, lastSeenAt: nowSec, updatedAt: nowSec }
    const isOurs = and(eq(nodes.nodeName, held), like(nodes.info, `%"id":"${nodeId}"%`))
    return (await db.changes(db.update(nodes).set(seen).where(isOurs))) > 0
  }
  const textOf = (info: NodeInfo, isStopped = false): string =>
    JSON.stringify({ ...info, node: { ...info.node, id: nodeId }, ...(isStopped && { stopped: true }) })
  let lastInfo: NodeInfo | undefined

  return {
    /** Shows that the node is there. @returns the name under which it is seen */
    async beat(info: NodeInfo): Promise<string> {
      lastInfo = info
      const text = textOf(info)
      if (claimed === undefined || !(await renew(claimed, text))) claimed = await claimPatiently(text)
      return claimed
    },
    /** The node stops: it is stale at once, and its name is free. */
    async leave(): Promise<void> {
      if (claimed === undefined || !lastInfo) return
      await renew(claimed, textOf(lastInfo, true))
    },
    staleAfterSec,
    async list(): Promise<readonly RegisteredNode[]> {
      const nowSec = Math.floor((await db.now()) / 1000)
      const rows = await db.select().from(nodes).orderBy(asc(nodes.nodeName))
      return rows.map((row) => ({
        name: row.nodeName,
        isOnline: isOnline(row, nowSec),
        startedAtSec: row.startedAt ?? 0,
        lastSeenAtSec: row.lastSeenAt ?? 0,
        info: infoOf(row),
      }))
    },
    /** Removes stale nodes: of all names or of one, and only those unseen for so long. @returns how many */
    async removeStale(only: { readonly name?: string; readonly olderThanSec?: number } = {}): Promise<number> {
      const nowSec = Math.floor((await db.now()) / 1000)
      const rows = await db.select().from(nodes)
      let removed = 0
      for (const row of rows) {
        if (only.name !== undefined && row.nodeName !== only.name) continue
        if (isOnline(row, nowSec) || nowSec - (row.lastSeenAt ?? 0) < (only.olderThanSec ?? 0)) continue
        const isUnseen = and(
          eq(nodes.nodeName, row.nodeName),
          row.updatedAt === null ? undefined : eq(nodes.updatedAt, row.updatedAt),
        )
        removed += await db.changes(db.delete(nodes).where(isUnseen))
      }
      return removed
    },
  }
}

type Row = Db['tables']['systemInstances']['$inferSelect']

/** A database may take names for one that differ in case or trailing blanks. */
const isSame = (a: string, b: string): boolean => a.trimEnd().toLowerCase() === b.trimEnd().toLowerCase()

function infoOf(row: Row): Readonly<Record<string, unknown>> {
  try {
    const value: unknown = JSON.parse(row.info ?? '{}')
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {}
  } catch {
    return {} // Another system's: shown without.
  }
}
