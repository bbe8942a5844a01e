/**
 * The module itself: the snapshot that calls read, and the verbs that change channels. A verb writes in a transaction
 * that also bumps the topic, then publishes; when it resolves, this process already routes by the change.
 */
import { inArray, notInArray } from 'drizzle-orm'
import { bumpTopic, type Db } from '../../db/index.ts'
import { asGatewayError, GatewayError } from '../../errors.ts'
import type { Clock } from '../../lib/clock.ts'
import type { Log } from '../../lib/log.ts'
import { EMPTY_RING, type Keyring } from '../../lib/sealed-text.ts'
import type { Counters } from '../../lib/shared-counters.ts'
import type { Fetch } from '../../provider/provider.ts'
import { createSnapshot, type State, type Topics } from '../../state/index.ts'
import type { Options } from '../options/index.ts'
import { createBalances } from './balances.ts'
import { BREAKER_TOPIC, dropBreakers, renewBreakers } from './breaker-rows.ts'
import { type Alert, createBreakers, type Outcome } from './breakers.ts'
import { type Candidates, type CandidatesQuery, createCandidateIndex } from './candidates.ts'
import { CHANNEL_STATUS, type Channel, parseChannel, upstreamChannel } from './channel.ts'
import { readChannelInfo } from './channel-info.ts'
import { type CopyOptions, type CreateInput, checkKind, checkNew, copyRow, createRows } from './create.ts'
import { applyHeaderEdits, resolveHeaderOverride } from './header-override.ts'
import { createHealth } from './health.ts'
import { type ChosenKey, createKeyChoice } from './key-choice.ts'
import { readKeys } from './key-text.ts'
import { createStoredKeys } from './keys-at-rest.ts'
import { type ChannelFilter, type ChannelList, listChannels } from './list.ts'
import { CHANNELS_TOPIC, createLoader, type ProviderList } from './load.ts'
import { upstreamModel } from './mapping.ts'
import { deleteRow, lockRow, type Row, readRow, rewriteAbilities, writeStatus } from './rows.ts'
import { type KeyAction, type KeyPage, listKeys, manageKeys, setStatusOf } from './status.ts'
import { thresholdMs } from './test-all.ts'
import {
  type Rights,
  rowsOfTag,
  setTagOf,
  type TagInput,
  type UpdateInput,
  updateChannelRow,
  updateTagRows,
} from './update.ts'

/** What a channel test says. */
export interface TestResult {
  readonly isOk: boolean
  /** Why it failed; '' when it did not. */
  readonly message: string
  readonly ms: number
  /** The upstream's own code, if it sent one. */
  readonly errorCode?: string | undefined
}

export interface TestQuery {
  readonly channel: Channel
  readonly model: string
  readonly isStream: boolean
  /** '' leaves the choice to the tester. */
  readonly endpointType: string
  /** Who asked: the test is logged under this user, at no cost. */
  readonly user: { readonly id: number; readonly name: string }
  /** Gives up. */
  readonly signal?: AbortSignal
}
export type Tester = (query: TestQuery) => Promise<TestResult>

/** What a model list is asked of: a stored channel, or one that is being written. */
export interface ModelListQuery {
  readonly type: number
  readonly key: string
  readonly baseUrl?: string | undefined
  readonly other?: string | undefined
  readonly headerOverride?: string | undefined
  readonly proxy?: string | undefined
}

export interface Channels {
  /** The first load. Rejects when it fails, so that a start does not serve an empty list; may be called again. */
  ready(): Promise<void>
  /** @throws GatewayError when the channel forced by the caller's key is missing or disabled */
  candidates(query: CandidatesQuery): Candidates
  /** An attempt starts: a usable key of the channel; undefined when all its keys are disabled (`channel:no_available_key`). */
  takeKey(channel: Channel): ChosenKey | undefined
  /** @throws GatewayError `channel:model_mapped_error` on a cycle or an unreadable mapping */
  upstreamModel(channel: Channel, model: string): string
  /** Tells the channel's health how an attempt ended, once each, and when its answer began. Returns at once and never throws. */
  report(outcome: Outcome): void
  /** Models that enabled channels serve for any of the groups, sorted. */
  models(groups: readonly string[]): readonly string[]
  /** As `models`, for all groups. */
  enabledModels(): readonly string[]
  /** From the snapshot: channels of known providers, whatever their status. */
  find(id: number): Channel | undefined
  onChange(listener: () => void): () => void
  /** How old the snapshot is. */
  ageMs(): number
  /** Channels whose health is kept in memory. */
  watched(): number

  list(filter: ChannelFilter): Promise<ChannelList>
  get(id: number): Promise<Row>
  /** The keys, a line each. The only way to read it; the caller has checked that it may. */
  keyText(id: number): Promise<string>
  keys(id: number, status?: number): Promise<KeyPage>
  create(input: CreateInput): Promise<readonly number[]>
  update(
    input: UpdateInput,
    given: readonly string[],
    rights: Rights,
  ): Promise<{ row: Row; changed: readonly string[] }>
  copy(id: number, options: CopyOptions): Promise<number>
  /** @returns how many there were */
  remove(ids: readonly number[]): Promise<number>
  /** Removes what is disabled, by hand or automatically. @returns how many */
  removeDisabled(): Promise<number>
  /** @returns how many changed */
  setStatus(ids: readonly number[], status: 1 | 2, reason: string): Promise<number>
  setTagStatus(tag: string, status: 1 | 2): Promise<number>
  setTag(ids: readonly number[], tag: string | null): Promise<number>
  updateTag(input: TagInput): Promise<number>
  /** The longest list of models among the channels of the tag. */
  tagModels(tag: string): Promise<string>
  manageKeys(id: number, action: KeyAction): Promise<number>
  /** Derives all abilities anew. */
  fix(): Promise<{ readonly success: number; readonly fails: number }>
  fetchModels(query: ModelListQuery): Promise<readonly string[]>
  fetchModelsOf(id: number): Promise<readonly string[]>
  setTester(tester: Tester): void
  /** Tests one channel and notes how long it took; a success in time may bring an automatically disabled one back. */
  test(id: number, query: Omit<TestQuery, 'channel'>): Promise<TestResult>
  /** @returns what the channel's account holds, in the upstream's currency. @throws GatewayError when that cannot be known */
  updateBalance(id: number): Promise<number>
  /** Of all enabled channels that have one; an account that holds nothing is a fault of the account. */
  updateBalances(signal: AbortSignal): Promise<void>
  /** Resolves when what was reported is dealt with. */
  idle(): Promise<void>
  close(): void
}

export interface ChannelsDeps {
  readonly db: Db
  readonly topics: Topics
  /** Carries what nodes see of channels; without it each judges by what it sees itself. */
  readonly bus: Pick<State, 'publish' | 'subscribe'>
  readonly options: Pick<Options, 'get'>
  readonly providers: ProviderList
  /** Turns of keys, shared by the workers of the node. */
  readonly turns?: Counters
  readonly alert?: Alert
  /** Opens and seals keys at rest; without it only plain ones are read. */
  readonly keyring?: Keyring
  readonly log: Log
  readonly clock: Clock
  /** In [0, 1). */
  readonly random: () => number
  readonly fetch: Fetch
}

/** Verbs over many channels may take longer than one over one. */
const BULK = { deadlineMs: 60_000 }

export const createChannels = (deps: ChannelsDeps): Channels => {
  const { db, topics, options, providers, log, clock, random } = deps
  const storedKeys = createStoredKeys(deps.keyring ?? EMPTY_RING)
  const load = createLoader({ db, providers, keys: storedKeys, log })
  const alert: Alert = deps.alert ?? (() => {})
  const find = (id: number): Channel | undefined => snapshot.get().find(id)
  const breakers = createBreakers({ db, topics, bus: deps.bus, options, find, alert, log, clock })
  let index = createCandidateIndex([], random, breakers)
  const snapshot = createSnapshot({
    name: 'channels',
    topic: CHANNELS_TOPIC,
    load: async (isFull) => {
      const changes = await load(isFull)
      if (changes.length > 0) index = index.with(changes)
      return index
    },
    topics,
    log,
    clock,
  })
  const keyChoice = createKeyChoice(random, deps.turns, breakers)
  const nowSec = (): number => Math.floor(clock.now() / 1000)
  let tester: Tester | undefined

  /**
   * A verb: all or nothing, and in force here when it resolves.
   * @param touched ids of all rows that it wrote; undefined: it may be any
   */
  const write = async <T>(
    work: (tx: Db) => Promise<T>,
    touched: (done: T) => readonly number[] | undefined,
    limits?: { readonly deadlineMs: number },
  ): Promise<T> => {
    const result = await db.transaction(async (tx) => {
      const done = await work(tx)
      await bumpTopic(tx, CHANNELS_TOPIC, touched(done))
      return done
    }, limits)
    await topics.changed(CHANNELS_TOPIC)
    return result
  }

  const health = createHealth({
    db,
    options,
    find,
    bump: (tx, id) => bumpTopic(tx, CHANNELS_TOPIC, [id]),
    published: () => topics.changed(CHANNELS_TOPIC),
    openKey: storedKeys.open,
    alert,
    log,
    clock,
  })

  /** As `write`, for what a person decides about channels: what their health was is of the past. */
  const writeAnew = async <T>(
    ids: (tx: Db) => Promise<readonly number[]>,
    work: (tx: Db, ids: readonly number[]) => Promise<T>,
    limits?: { readonly deadlineMs: number },
    settle: typeof renewBreakers = renewBreakers,
  ): Promise<T> => {
    const { done } = await write(
      async (tx) => {
        const concerned = await ids(tx)
        const done = await work(tx, concerned)
        if (concerned.length > 0) await settle(tx, concerned)
        return { done, concerned }
      },
      ({ concerned }) => concerned,
      limits,
    )
    await topics.changed(BREAKER_TOPIC)
    return done
  }

  const removeIds = (ids: readonly number[]): Promise<number> =>
    writeAnew(
      async () => ids,
      async (tx) => {
        let removed = 0
        for (const id of [...new Set(ids)].sort((a, b) => a - b)) if (await deleteRow(tx, id)) removed++
        return removed
      },
      BULK,
      dropBreakers,
    )

  const opened = (row: Row): Row => ({ ...row, key: storedKeys.open(row.key) })
  const parsed = (row: Row): Channel => parseChannel(opened(row), checkProvider(providers, row.type ?? 0), () => {})

  /** A way to the upstream that stands beside the calls: its key, and requests as the channel has them made. */
  const reach = (channel: Channel): { readonly key: string; readonly send: Fetch } => {
    const key = keyChoice.take(channel)?.key ?? ''
    const edits = resolveHeaderOverride(channel.headerOverride, {
      apiKey: key,
      clientHeaders: new Headers(),
      isChannelTest: true,
    })
    const { proxy } = channel.setting
    const send: Fetch = (url, init) => {
      const headers = new Headers(init.headers)
      applyHeaderEdits(headers, edits)
      return deps.fetch(url, { ...init, headers, ...(proxy && { proxy }) })
    }
    return { key, send }
  }

  const listModels = async (channel: Channel): Promise<readonly string[]> => {
    const { provider } = channel
    if (!provider.listModels) throw new GatewayError('channel_no_model_list')
    const { key, send } = reach(channel)
    try {
      return await provider.listModels(upstreamChannel(channel, key), send)
    } catch (thrown) {
      // An answer to a person, not to a call: a refusal with its reason.
      const cause = asGatewayError(thrown)
      throw new GatewayError('channel_list_failed', { params: { reason: cause.public }, cause })
    }
  }

  const report = (outcome: Outcome): void => {
    breakers.report(outcome)
    const { error } = outcome
    if (error) health.report({ ...outcome, error })
  }
  const balances = createBalances({
    db,
    find,
    read: async (channel) => {
      const { key, send } = reach(channel)
      if (!channel.provider.readBalance) throw new GatewayError('channel_no_balance')
      return channel.provider.readBalance(upstreamChannel(channel, key), send)
    },
    report,
    log,
    clock,
  })

  const noteTest = async (id: number, result: TestResult): Promise<void> => {
    const { channels } = db.tables
    await db
      .update(channels)
      .set({ testTime: nowSec(), responseTime: Math.round(result.ms) })
      .where(inArray(channels.id, [id]))
    const limitMs = thresholdMs(options)
    const isSlow = limitMs > 0 && result.ms > limitMs
    if (!result.isOk || isSlow || !options.get('AutomaticEnableChannelEnabled')) return
    if ((await readRow(db, id)).status !== CHANNEL_STATUS.disabledAutomatically) return
    await writeAnew(
      async () => [id],
      async (tx) => {
        const row = await lockRow(tx, id)
        if (row.status === CHANNEL_STATUS.disabledAutomatically)
          await writeStatus(tx, row, CHANNEL_STATUS.enabled, 'a test succeeded', nowSec())
      },
    )
  }

  return {
    ready: async () => {
      await snapshot.ready()
      await breakers.ready()
    },
    candidates: (query) => snapshot.get().candidates(query),
    takeKey: (channel) => {
      const key = keyChoice.take(channel)
      if (key) breakers.start(channel.id)
      return key
    },
    upstreamModel,
    report,
    models: (groups) => snapshot.get().models(groups),
    enabledModels: () => snapshot.get().models(snapshot.get().groups),
    find,
    onChange: snapshot.onChange,
    ageMs: snapshot.ageMs,
    watched: breakers.size,

    list: (filter) => listChannels(db, filter, storedKeys),
    get: (id) => readRow(db, id),
    keyText: async (id) => {
      const row = opened(await readRow(db, id))
      return readKeys(row.key, readChannelInfo(row.channelInfo).is_multi_key).join('\n')
    },
    keys: async (id, status) => listKeys(opened(await readRow(db, id)), status),
    create: (input) => {
      checkNew(input, providers)
      return write(
        (tx) => createRows(tx, input, storedKeys, nowSec()),
        (ids) => ids,
        BULK,
      )
    },
    update: (input, given, rights) =>
      writeAnew(
        async () => [input.id],
        (tx) => updateChannelRow(tx, input, given, rights, providers, storedKeys),
      ),
    copy: (id, copyOptions) =>
      write(
        (tx) => copyRow(tx, id, copyOptions, storedKeys, nowSec()),
        (made) => [made],
      ),
    remove: removeIds,
    removeDisabled: async () => {
      const { channels } = db.tables
      const disabled = [CHANNEL_STATUS.disabledByHand, CHANNEL_STATUS.disabledAutomatically]
      const rows = await db.select({ id: channels.id }).from(channels).where(inArray(channels.status, disabled))
      return rows.length === 0 ? 0 : removeIds(rows.map(({ id }) => id))
    },
    setStatus: async (ids, status, reason) => {
      const changed = await writeAnew(
        async () => ids,
        (tx) => setStatusOf(tx, ids, status, reason, nowSec()),
        BULK,
      )
      return changed.length
    },
    setTagStatus: async (tag, status) => {
      const changed = await writeAnew(
        async (tx) => (await rowsOfTag(tx, tag)).map(({ id }) => id),
        (tx, ids) => setStatusOf(tx, ids, status, 'manual batch operation', nowSec()),
        BULK,
      )
      return changed.length
    },
    setTag: (ids, tag) =>
      write(
        (tx) => setTagOf(tx, ids, tag),
        () => ids,
        BULK,
      ),
    updateTag: (input) =>
      write(
        (tx) => updateTagRows(tx, input),
        () => undefined,
        BULK,
      ),
    tagModels: async (tag) => {
      const { channels } = db.tables
      const rows = await db
        .select({ tag: channels.tag, models: channels.models })
        .from(channels)
        .where(inArray(channels.tag, [tag]))
      const models = rows.filter((row) => row.tag === tag).map((row) => row.models ?? '')
      return models.reduce((longest, text) => (text.length > longest.length ? text : longest), '')
    },
    manageKeys: (id, action) =>
      writeAnew(
        async () => [id],
        (tx) => manageKeys(tx, id, action, storedKeys, nowSec()),
      ),
    fix: () => fixAbilities(db, log),
    fetchModels: async (query) => {
      const row = newRow(query)
      if (query.key.trim() === '') throw new GatewayError('channel_key_required')
      const channel = parsed(row)
      if (channel.baseUrl === '') throw new GatewayError('channel_field_required', { params: { field: 'base_url' } })
      return listModels(channel)
    },
    fetchModelsOf: async (id) => listModels(parsed(await readRow(db, id))),
    setTester: (next) => {
      tester = next
    },
    test: async (id, query) => {
      if (!tester) throw new GatewayError('channel_not_tested')
      const channel = parsed(await readRow(db, id))
      const model = query.model || channel.testModel || channel.models[0] || 'gpt-4o-mini'
      const result = await tester({ ...query, channel, model })
      await noteTest(id, result)
      return result
    },
    updateBalance: async (id) => balances.update(parsed(await readRow(db, id))),
    updateBalances: async (signal) => {
      await balances.updateAll(signal)
      await health.idle()
    },
    idle: async () => {
      await Promise.all([health.idle(), breakers.idle()])
    },
    close: () => {
      breakers.close()
      snapshot.close()
    },
  }
}

const checkProvider = (providers: ProviderList, type: number) => {
  checkKind(type, providers)
  const provider = providers.find(type)
  if (!provider) throw new GatewayError('channel_type_unknown', { params: { type } })
  return provider
}

/** A channel that is not stored yet, as far as a model list needs it. */
const newRow = ({ type, key, baseUrl, other, headerOverride, proxy }: ModelListQuery): Row => ({
  id: 0,
  type,
  key: readKeys(key, true)[0] ?? '',
  openAiOrganization: null,
  testModel: null,
  status: CHANNEL_STATUS.enabled,
  name: '',
  weight: 0,
  createdTime: null,
  testTime: null,
  responseTime: null,
  baseUrl: baseUrl ?? '',
  other: other ?? '',
  balance: null,
  balanceUpdatedTime: null,
  models: '',
  group: '',
  usedQuota: null,
  modelMapping: null,
  statusCodeMapping: null,
  priority: 0,
  autoBan: 1,
  otherInfo: null,
  tag: null,
  setting: proxy ? JSON.stringify({ proxy }) : null,
  paramOverride: null,
  headerOverride: headerOverride ?? null,
  remark: null,
  channelInfo: null,
  settings: null,
})

/** One transaction per channel: the table stays usable for whoever reads it meanwhile. */
const fixAbilities = async (db: Db, log: Log): Promise<{ readonly success: number; readonly fails: number }> => {
  const { abilities, channels } = db.tables
  const ids = (await db.select({ id: channels.id }).from(channels)).map(({ id }) => id)
  let success = 0
  for (const id of ids) {
    try {
      await db.transaction(async (tx) => rewriteAbilities(tx, await lockRow(tx, id)))
      success++
    } catch (error) {
      log.warn('the abilities of a channel could not be rebuilt', { channelId: id, error })
    }
  }
  await db.transaction(async (tx) => {
    await tx.delete(abilities).where(ids.length > 0 ? notInArray(abilities.channelId, ids) : undefined)
  })
  return { success, fails: ids.length - success }
}
