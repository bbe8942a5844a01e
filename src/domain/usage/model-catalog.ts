/** How models are described to people: names, vendors and tags that operators keep, and what kinds of channels offer. */
import { and, eq, isNull } from 'drizzle-orm'
import type { Db } from '../../db/index.ts'
import type { Clock } from '../../lib/clock.ts'

export interface ModelDescription {
  readonly description: string
  readonly icon: string
  readonly tags: string
  readonly vendorId: number
  /** Ways in which the model can be called, by name; undefined when the operator named none. */
  readonly endpoints: Readonly<Record<string, Endpoint>> | undefined
}
export interface Endpoint {
  readonly path: string
  readonly method: string
}
export interface Vendor {
  readonly id: number
  readonly name: string
  readonly icon: string
}

/** One reading of the descriptions. */
export interface Descriptions {
  readonly vendors: readonly Vendor[]
  describe(model: string): ModelDescription | undefined
}

export interface ModelCatalog {
  /** At most a minute old: visitors without an account ask for it, too. */
  load(): Promise<Descriptions>
  /** Models that channels of each kind list, enabled or not. */
  byChannelType(): Promise<ReadonlyMap<number, readonly string[]>>
}

const ENABLED = 1
/** `models.name_rule`: how a stored name is meant. Exact names go first. */
const NAME_RULES: readonly ((model: string, name: string) => boolean)[] = [
  (model, name) => model === name,
  (model, name) => model.startsWith(name),
  (model, name) => model.includes(name),
  (model, name) => model.endsWith(name),
]

const FRESH_MS = 60_000

export function createModelCatalog(deps: { readonly db: Db; readonly clock: Clock }): ModelCatalog {
  const { db, clock } = deps
  let cached: { readonly untilMs: number; readonly descriptions: Promise<Descriptions> } | undefined

  const read = async (): Promise<Descriptions> => {
    const { models, vendors } = db.tables
    const [descriptions, vendorRows] = await Promise.all([
      db
        .select()
        .from(models)
        .where(and(eq(models.status, ENABLED), isNull(models.deletedAt))),
      db
        .select()
        .from(vendors)
        .where(and(eq(vendors.status, ENABLED), isNull(vendors.deletedAt))),
    ])
    const rules = descriptions
      .map((row) => ({ name: row.modelName, rule: row.nameRule ?? 0, description: descriptionOf(row) }))
      .sort((a, b) => a.rule - b.rule || b.name.length - a.name.length)
    return {
      vendors: vendorRows.map(({ id, name, icon }) => ({ id, name, icon: icon ?? '' })),
      describe: (model) => rules.find(({ name, rule }) => NAME_RULES[rule]?.(model, name))?.description,
    }
  }

  return {
    load() {
      const now = clock.monotonic()
      if (cached && now < cached.untilMs) return cached.descriptions
      const entry = { untilMs: now + FRESH_MS, descriptions: read() }
      cached = entry
      entry.descriptions.catch(() => {
        if (cached === entry) cached = undefined // A failure is told to who asked, and not kept.
      })
      return entry.descriptions
    },
    async byChannelType() {
      const { channels } = db.tables
      const rows = await db.select({ type: channels.type, models: channels.models }).from(channels)
      const sets = new Map<number, Set<string>>()
      for (const row of rows) {
        const type = row.type ?? 0
        const names = sets.get(type) ?? new Set()
        for (const name of (row.models ?? '').split(',')) if (name.trim() !== '') names.add(name.trim())
        sets.set(type, names)
      }
      return new Map([...sets].map(([type, names]) => [type, [...names].sort()]))
    },
  }
}

const descriptionOf = (row: Db['tables']['models']['$inferSelect']): ModelDescription => ({
  description: row.description ?? '',
  icon: row.icon ?? '',
  tags: row.tags ?? '',
  vendorId: row.vendorId ?? 0,
  endpoints: parseEndpoints(row.endpoints ?? ''),
})

/** The column holds an object of endpoints by name, or a list of well-known names. */
function parseEndpoints(text: string): Readonly<Record<string, Endpoint>> | undefined {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return undefined // Empty, or written by another program: then the model's own endpoints are shown.
  }
  const entries: readonly (readonly [string, unknown])[] = Array.isArray(value)
    ? value.filter((name) => typeof name === 'string').map((name: string) => [name, {}])
    : Object.entries(Object(value))
  const endpoints = entries.map(([name, given]) => {
    const { path, method } = Object(given) as { path?: unknown; method?: unknown }
    return [name, { path: typeof path === 'string' ? path : '', method: typeof method === 'string' ? method : 'POST' }]
  })
  return endpoints.length > 0 ? Object.fromEntries(endpoints) : undefined
}
