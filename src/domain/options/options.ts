/**
 * The gateway's settings: typed reads from memory, writes by one verb that validates, stores and publishes. Keys and texts
 * are New API's, so that its databases and tools keep working; keys we do not know are kept and listed.
 */
import { eq } from 'drizzle-orm'
import { bumpTopic, type Db } from '../../db/index.ts'
import { GatewayError } from '../../errors.ts'
import type { Clock } from '../../lib/clock.ts'
import type { Log } from '../../lib/log.ts'
import { createSnapshot, type Topics } from '../../state/index.ts'
import { OPTION_DEFINITIONS, type OptionKey, type OptionValue, type OptionValues } from './definitions/index.ts'
import type { OptionDefinition, Reading } from './option.ts'

export interface OptionText {
  readonly key: string
  readonly value: string
}

/** One state of all options. A reload that finds nothing changed keeps the object, so it serves as a cache key. */
export interface OptionsState {
  /** Stored texts by key, aliases resolved. */
  readonly texts: ReadonlyMap<string, string>
  readonly values: OptionValues
}

export interface Options {
  /** Resolves after the first load. */
  ready(): Promise<void>
  get<K extends OptionKey>(key: K): OptionValue<K>
  /** The current state, for what is computed once per state. */
  state(): OptionsState
  /** Texts of all options, defaults and unknown stored keys included. */
  list(): readonly OptionText[]
  /**
   * Validates and stores all entries together, or none; resolves when this process has them.
   * @throws GatewayError option_invalid, option_needs
   */
  set(entries: Readonly<Record<string, string>>): Promise<void>
  /** @returns a function that ends the calls */
  onChange(listener: () => void): () => void
  readonly definitions: readonly OptionDefinition[]
  close(): void
}

/** Longest key the column holds, in characters. */
const MAX_KEY_LENGTH = 191

export function createOptions(deps: {
  readonly db: Db
  readonly topics: Topics
  readonly log: Log
  readonly clock: Clock
}): Options {
  const { db, topics, log, clock } = deps
  const definitions = new Map(OPTION_DEFINITIONS.map((definition) => [definition.key, definition]))
  const canonical = new Map(OPTION_DEFINITIONS.flatMap(({ key, aliases }) => aliases.map((alias) => [alias, key])))
  const readings = new Map<string, { readonly text: string; readonly reading: Reading }>()
  let last: OptionsState | undefined

  const snapshot = createSnapshot<OptionsState>({
    name: 'options',
    topic: 'options',
    topics,
    log,
    clock,
    async load() {
      const { options } = db.tables
      const rows = await db.select({ key: options.key, value: options.value }).from(options)
      const texts = resolveAliases(new Map(rows.map((row) => [row.key, row.value ?? ''])), canonical)
      if (last && isSame(last.texts, texts)) return last
      last = { texts, values: readAll(texts) }
      return last
    },
  })

  /** A text is read, and complained about, once; values of unchanged texts stay the same objects. */
  const readAll = (texts: ReadonlyMap<string, string>): OptionValues => {
    const values: Record<string, unknown> = {}
    for (const { key, default: standard, read } of definitions.values()) {
      const text = texts.get(key)
      if (text === undefined) {
        values[key] = standard
        continue
      }
      const known = readings.get(key)
      const reading = known?.text === text ? known.reading : read(text)
      if (reading.problem !== undefined && known?.text !== text) {
        log.warn('a stored option cannot be read', { key, problem: reading.problem })
      }
      readings.set(key, { text, reading })
      values[key] = reading.value ?? standard
    }
    return values as OptionValues // Each value is of its definition's schema, or its default.
  }

  const textOf = (key: string): string => snapshot.get().texts.get(key) ?? definitions.get(key)?.defaultText ?? ''

  return {
    ready: snapshot.ready,
    get: (key) => snapshot.get().values[key],
    state: snapshot.get,
    list() {
      const { texts } = snapshot.get()
      const known = OPTION_DEFINITIONS.filter(({ key, isUnset }) => !isUnset || texts.has(key))
      const unknown = [...texts.keys()].filter((key) => !definitions.has(key))
      return [
        ...known.flatMap(({ key, aliases }) => [key, ...aliases].map((name) => ({ key: name, value: textOf(key) }))),
        ...unknown.map((key) => ({ key, value: textOf(key) })),
      ]
    },
    async set(entries) {
      const writes = withConsequences(renamed(entries, canonical))
      for (const [key, text] of writes) {
        validate(definitions.get(key), key, text, (other) => writes.get(other) ?? textOf(other))
        refuseOtherCase(key, [...definitions.keys(), ...snapshot.get().texts.keys()])
      }
      await db.transaction(async (tx) => {
        // In the order of keys, so that two writers never wait for each other crosswise.
        for (const [key, value] of [...writes].sort(([a], [b]) => (a < b ? -1 : 1))) await store(tx, key, value)
        await bumpTopic(tx, 'options')
      })
      await topics.changed('options')
    },
    onChange: snapshot.onChange,
    definitions: OPTION_DEFINITIONS,
    close: snapshot.close,
  }

  async function store(tx: Db, key: string, value: string): Promise<void> {
    const { options } = tx.tables
    await tx.upsert(options, { key, value }, { key: [options.key], set: { value } })
    const aliases = definitions.get(key)?.aliases ?? []
    for (const alias of aliases) await tx.changes(tx.delete(options).where(eq(options.key, alias)))
  }
}

/** An alias that is stored wins, as it does where it was stored: it was applied after the main key. */
function resolveAliases(
  stored: ReadonlyMap<string, string>,
  canonical: ReadonlyMap<string, string>,
): Map<string, string> {
  const texts = new Map([...stored].filter(([key]) => !canonical.has(key)))
  for (const [alias, key] of canonical) {
    const text = stored.get(alias)
    if (text !== undefined) texts.set(key, text)
  }
  return texts
}

const isSame = (a: ReadonlyMap<string, string>, b: ReadonlyMap<string, string>): boolean =>
  a.size === b.size && [...a].every(([key, value]) => b.get(key) === value)

const renamed = (
  entries: Readonly<Record<string, string>>,
  canonical: ReadonlyMap<string, string>,
): Map<string, string> => new Map(Object.entries(entries).map(([key, text]) => [canonical.get(key) ?? key, text]))

/** The older switch of the currency display moves the newer option, unless that is set in the same write. */
function withConsequences(writes: ReadonlyMap<string, string>): ReadonlyMap<string, string> {
  const display = writes.get('DisplayInCurrencyEnabled')
  if (display === undefined || writes.has('general_setting.quota_display_type')) return writes
  return new Map([...writes, ['general_setting.quota_display_type', display === 'true' ? 'USD' : 'TOKENS']])
}

function validate(
  definition: OptionDefinition | undefined,
  key: string,
  text: string,
  textOf: (key: string) => string,
): void {
  if (key.trim() === '' || key.length > MAX_KEY_LENGTH) throw invalid(key.slice(0, MAX_KEY_LENGTH), 'is no usable key')
  if (!definition) return
  const { value, problem } = definition.read(text)
  if (problem !== undefined) throw invalid(key, problem)
  const refusal = value === undefined ? undefined : definition.check?.(value, textOf)
  if (refusal !== undefined) throw invalid(key, refusal)
  const needed = value === true ? definition.needs.find((other) => textOf(other).trim() === '') : undefined
  if (needed !== undefined) throw new GatewayError('option_needs', { params: { key, needed } })
}

/** A database that ignores case would overwrite the other option. */
function refuseOtherCase(key: string, known: readonly string[]): void {
  const lower = key.toLowerCase()
  const other = known.find((name) => name !== key && name.toLowerCase() === lower)
  if (other !== undefined) throw invalid(key, `differs from ${other} only in upper and lower case`)
}

const invalid = (key: string, reason: string): GatewayError =>
  new GatewayError('option_invalid', { params: { key, reason } })
