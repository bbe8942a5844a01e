/**
 * An installation that has grown beside a new one on the same server, in the same rounds: CPU per call, what an edit of a
 * channel costs a node, memory, pages of the log, and calls and pages while old records are deleted. BENCH_PAGES in the
 * environment gives each filter of the pages a row of its own.
 */
import { type Gateway, openGateway } from './gateway.ts'
import {
  FEW_CHANNELS,
  GROWN,
  GROWN_ENV,
  type Grown,
  grownKeyName,
  grownKeys,
  grownModel,
  grownUser,
  openGrown,
} from './grow.ts'
import { cpuOf, residentOf } from './processes.ts'
import type { Rig } from './rig.ts'
import { median, type Row } from './table.ts'

export interface GrowthSizes {
  readonly logs: number
  readonly rounds: number
  readonly calls: number
  readonly warmUp: number
  /** Of each kind, per round. */
  readonly pages: number
  readonly edits: number
  /** Old records that go. */
  readonly deleted: number
}

const CONNECTIONS = 32
const PAGE = 100
const LOOK_MS = 100
/** Pages beyond this are counted as more than 10,000. */
const DEEP_OFFSET = 9_900
const PAGE_AIM = { kind: 'at most', value: 300 } as const
const DAY_SEC = 86_400
const SMALL = { users: 50, keysPerUser: 2, channels: 10 } as const

const say = (text: string): void => void process.stderr.write(`… ${text}\n`)

export async function measureGrowth(rig: Rig, sizes: GrowthSizes): Promise<readonly Row[]> {
  const grown = await openGrown(rig, sizes.logs, say)
  const { server } = grown
  const common = { folder: rig.folder, engine: 'cluster', upstreamUrl: rig.mock.url } as const
  const few = grownKeys('few')
  const small = await openGateway({ ...common, ...SMALL, on: { server } })
  try {
    const on = { server, database: grown.database, keys: grownKeys('many') }
    const big = await openGateway({ ...common, on, env: GROWN_ENV })
    try {
      const before = await callRows(rig, { small, big, few }, sizes)
      const edits = await editRows(small, big, sizes)
      const pages = await pageRows(big, grown, sizes)
      const cleaning = await cleanUpRows(rig, big, grown, sizes)
      return [...before, ...edits, startRow(big), ...pages, ...cleaning]
    } finally {
      await big.close()
    }
  } finally {
    await small.close()
  }
}

const size = (count: number): string => count.toLocaleString('en')

async function callRows(
  rig: Rig,
  { small, big, few }: { readonly small: Gateway; readonly big: Gateway; readonly few: readonly string[] },
  { rounds, calls, warmUp }: GrowthSizes,
): Promise<readonly Row[]> {
  const target = (gateway: Gateway, keys: readonly string[]) => ({
    gateway,
    keys,
    own: [] as number[],
    server: [] as number[],
  })
  const targets = { small: target(small, small.keys), many: target(big, big.keys), few: target(big, few) }
  const run = async ({ gateway, keys }: ReturnType<typeof target>, count: number): Promise<void> => {
    await rig.load({ kind: 'calls', url: gateway.url, keys, connections: CONNECTIONS, calls: count })
    await gateway.settled(count)
  }
  for (const each of Object.values(targets)) await run(each, warmUp)
  for (let round = 0; round < rounds; round++) {
    for (const each of Object.values(targets)) {
      const cpu = async () =>
        [await cpuOf(each.gateway.supervisorPid), await cpuOf(each.gateway.serverPids[0]!)] as const
      const [own, server] = await cpu()
      await run(each, calls)
      const [ownAfter, serverAfter] = await cpu()
      each.own.push((ownAfter - own) / calls)
      each.server.push((serverAfter - server) / calls)
    }
  }
  const aim = { kind: 'at most × reference', times: 1.2 } as const
  const grownTo = `${size(GROWN.channels)} channels, ${size(GROWN.keys)} keys`
  const row = (figure: string, each: ReturnType<typeof target>): readonly Row[] => [
    { figure: `small call, ${figure}`, unit: 'µs CPU', values: each.own, reference: targets.small.own, aim },
    { figure: `the same, MariaDB itself`, unit: 'µs CPU', values: each.server, reference: targets.small.server },
  ]
  return [
    ...row(`${grownTo}, all channels serve the model; reference: ${SMALL.channels} channels`, targets.many),
    ...row(`${grownTo}, ${FEW_CHANNELS} of them serve it`, targets.few),
    {
      figure: `worker with ${grownTo}`,
      unit: 'MB',
      values: [await residentOf(big.workerPid)],
      reference: [await residentOf(small.workerPid)],
    },
  ]
}

/** An edit reaches every node: what one spends on it. */
async function editRows(small: Gateway, big: Gateway, { edits, rounds }: GrowthSizes): Promise<readonly Row[]> {
  const measured = async ({ admin, supervisorPid }: Gateway): Promise<number> => {
    const start = await cpuOf(supervisorPid)
    for (let number = 0; number < edits; number++)
      await admin.call('PUT', '/api/channel/', {
        id: 1 + (number % SMALL.channels),
        remark: crypto.randomUUID(),
        weight: number % 10,
      })
    return ((await cpuOf(supervisorPid)) - start) / 1_000 / edits
  }
  const values = { small: [] as number[], big: [] as number[] }
  for (let round = 0; round < rounds; round++) {
    values.small.push(await measured(small))
    values.big.push(await measured(big))
  }
  return [
    {
      figure: `edit of one of ${size(GROWN.channels)} channels: CPU of a node`,
      unit: 'ms CPU',
      values: values.big,
      reference: values.small,
    },
  ]
}

const startRow = (big: Gateway): Row => ({
  figure: `start with ${size(GROWN.channels)} channels`,
  unit: 'ms',
  values: [big.startMs],
  aim: { kind: 'at most', value: 1_000 },
})

type Query = Readonly<Record<string, string | number>>

/** What people look for; each page has its own values. */
function pageKinds(endSec: number): Readonly<Record<string, () => Query>> {
  const any = (count: number): number => Math.floor(Math.random() * count)
  const range = (days: number): Query => {
    const from = endSec - any(GROWN.days - days) * DAY_SEC - days * DAY_SEC
    return { start_timestamp: from, end_timestamp: from + days * DAY_SEC }
  }
  const someUser = () => ({ username: grownUser(any(GROWN.users)) })
  const someKey = () => ({ token_name: grownKeyName(any(GROWN.keys / GROWN.users)) })
  const someModel = () => ({ model_name: grownModel(any(GROWN.models)) })
  const someChannel = () => ({ channel: 1 + any(GROWN.channels) })
  const busiest = { username: grownUser(0) }
  const today = { start_timestamp: endSec - DAY_SEC, end_timestamp: endSec }
  return {
    'no filter': () => ({}),
    'a day': () => range(1),
    'a month': () => range(30),
    'by user': someUser,
    'by the busiest user': () => busiest,
    'by key': someKey,
    'by the busiest key': () => ({ token_name: grownKeyName(0) }),
    'by model': someModel,
    'by channel': someChannel,
    'by group': () => ({ group: 'vip' }),
    errors: () => ({ type: 5 }),
    'log-ins': () => ({ type: 7 }),
    'by user, last day': () => ({ ...someUser(), ...today }),
    'by user, a month': () => ({ ...someUser(), ...range(30) }),
    'by the busiest user, a month': () => ({ ...busiest, ...range(30) }),
    'by key, a month': () => ({ ...someKey(), ...range(30) }),
    'by model, a day': () => ({ ...someModel(), ...range(1) }),
    'by model, a month': () => ({ ...someModel(), ...range(30) }),
    'by channel, a month': () => ({ ...someChannel(), ...range(30) }),
    'errors of a month': () => ({ type: 5, ...range(30) }),
    'log-ins of a day': () => ({ type: 7, ...range(1) }),
    'calls of a day': () => ({ type: 2, ...range(1) }),
    'by user and model': () => ({ ...someUser(), ...someModel() }),
    'by user and channel': () => ({ ...busiest, ...someChannel() }),
    'by user, model, key and type, a week': () => ({
      ...someUser(),
      ...someModel(),
      ...someKey(),
      type: 2,
      ...range(7),
    }),
    'errors of a user': () => ({ type: 5, ...someUser() }),
    'errors of a model, a month': () => ({ type: 5, ...someModel(), ...range(30) }),
    'by the beginning of a model': () => ({ model_name: `model-${any(5)}%` }),
  }
}

const p95 = (values: readonly number[]): number =>
  [...values].sort((a, b) => a - b)[Math.min(values.length - 1, Math.ceil(values.length * 0.95) - 1)] ?? 0

async function pageRows(big: Gateway, grown: Grown, { pages, rounds, logs }: GrowthSizes): Promise<readonly Row[]> {
  const kinds = Object.entries(pageKinds(grown.endSec))
  const first = new Map<string, number[]>()
  const deep = new Map<string, number[]>()
  const note = (map: Map<string, number[]>, kind: string, ms: number): void =>
    void map.set(kind, [...(map.get(kind) ?? []), ms])
  for (let n = 0; n < pages * rounds; n++) {
    for (const [kind, query] of kinds) {
      const wanted = query()
      const { ms, total } = await timed(big, '/api/log/', { ...wanted, page_size: PAGE })
      note(first, kind, ms)
      const last = Math.min(Math.max(1, Math.ceil(total / PAGE)), DEEP_OFFSET / PAGE + 1)
      note(deep, kind, (await timed(big, '/api/log/', { ...wanted, page_size: PAGE, p: last })).ms)
    }
  }
  const all = (map: Map<string, number[]>): readonly number[] => [...map.values()].flat()
  const worst = (map: Map<string, number[]>): string =>
    [...map].map(([kind, values]) => [kind, p95(values)] as const).sort(([, a], [, b]) => b - a)[0]?.[0] ?? ''
  const sums = new Map<string, number[]>()
  const ranges: Readonly<Record<string, Query>> = {
    'a day': { start_timestamp: grown.endSec - 7 * DAY_SEC, end_timestamp: grown.endSec - 6 * DAY_SEC },
    '90 days': {},
    '90 days of a user': { username: grownUser(17) },
    '90 days of a model': { model_name: grownModel(7) },
  }
  for (let n = 0; n < rounds; n++)
    for (const [name, range] of Object.entries(ranges)) note(sums, name, (await timed(big, '/api/log/stat', range)).ms)
  const kindRows = process.env['BENCH_PAGES']
    ? kinds.flatMap(([kind]): Row[] => [
        { figure: `page ${kind}, first`, unit: 'ms', values: first.get(kind) ?? [], aim: PAGE_AIM },
        { figure: `page ${kind}, last`, unit: 'ms', values: deep.get(kind) ?? [], aim: PAGE_AIM },
      ])
    : []
  const records = `${size(logs)} records`
  return [
    ...kindRows,
    {
      figure: `log page of ${records}, ${kinds.length} filters: p95`,
      unit: 'ms',
      values: [p95(all(first))],
      aim: PAGE_AIM,
    },
    {
      figure: `the slowest filter (${worst(first)}): p95`,
      unit: 'ms',
      values: [p95(first.get(worst(first)) ?? [])],
      aim: PAGE_AIM,
    },
    { figure: 'last page that is counted: p95', unit: 'ms', values: [p95(all(deep))], aim: PAGE_AIM },
    {
      figure: `the slowest filter (${worst(deep)}): p95`,
      unit: 'ms',
      values: [p95(deep.get(worst(deep)) ?? [])],
      aim: PAGE_AIM,
    },
    ...[...sums].map(([name, values]): Row => ({ figure: `sum over ${name}`, unit: 'ms', values })),
  ]
}

/** Deletes the oldest records: in a full run about a quarter of those that its calls added. */
async function cleanUpRows(rig: Rig, big: Gateway, grown: Grown, sizes: GrowthSizes): Promise<readonly Row[]> {
  const { calls, rounds } = sizes
  const serverPid = big.serverPids[0]!
  const alone = { own: [] as number[], server: [] as number[], rate: [] as number[] }
  const beside = { own: [] as number[], server: [] as number[], rate: [] as number[] }
  const pages: number[] = []
  const measured = async (values: typeof alone): Promise<void> => {
    const [own, server] = [await cpuOf(big.supervisorPid), await cpuOf(serverPid)]
    const job = { kind: 'calls', url: big.url, keys: big.keys, connections: CONNECTIONS, calls } as const
    values.rate.push(calls / (await rig.load(job)).seconds)
    await big.settled(calls)
    values.own.push(((await cpuOf(big.supervisorPid)) - own) / calls)
    values.server.push(((await cpuOf(serverPid)) - server) / calls)
  }
  for (let round = 0; round < rounds; round++) await measured(alone)
  const before = await grown.number('select count(*) from logs')
  const target = await grown.number(`select created_at from logs order by created_at limit 1 offset ${sizes.deleted}`)
  const startedAtMs = performance.now()
  const path = '/api/system-task'
  const { task_id } = await big.admin.call<{ task_id: string }>(
    'POST',
    `${path}/log-cleanup?target_timestamp=${target}`,
  )
  const isDone = async (): Promise<boolean> => {
    const { status, error } = await big.admin.call<{ status: string; error: string }>('GET', `${path}/${task_id}`)
    if (status === 'failed') throw new Error(`the clean-up failed: ${error}`)
    return status !== 'pending' && status !== 'running'
  }
  let isOver = false
  const watched = (async () => {
    try {
      while (!(await isDone())) await Bun.sleep(LOOK_MS)
      return { endedAtMs: performance.now() }
    } catch (error) {
      return { error }
    } finally {
      isOver = true
    }
  })()
  do {
    const looking = (async () => {
      for (let n = 0; n < 5; n++)
        pages.push((await timed(big, '/api/log/', { username: grownUser(n), page_size: PAGE })).ms)
    })()
    await measured(beside)
    await looking
  } while (!isOver)
  const { endedAtMs, error } = await watched
  if (endedAtMs === undefined) throw error
  const seconds = (endedAtMs - startedAtMs) / 1_000
  const added = beside.rate.length * calls
  const deleted = before + added - (await grown.number('select count(*) from logs'))
  const figure = 'small call while old records are deleted'
  const compared = (what: keyof typeof alone): Pick<Row, 'values' | 'reference'> => ({
    values: beside[what],
    // There are as many rounds as the clean-up takes.
    reference: beside[what].map(() => median(alone[what])),
  })
  return [
    { figure: `${figure}; reference: else`, unit: 'µs CPU', ...compared('own') },
    { figure: 'the same, MariaDB itself', unit: 'µs CPU', ...compared('server') },
    { figure: `${figure}: calls per second`, unit: '1/s', ...compared('rate') },
    { figure: 'log page meanwhile: p95', unit: 'ms', values: [p95(pages)], aim: PAGE_AIM },
    { figure: 'records deleted meanwhile', unit: '1/s', values: [deleted / seconds] },
  ]
}

async function timed(
  { admin }: Gateway,
  path: string,
  query: Query,
): Promise<{ readonly ms: number; readonly total: number }> {
  const startedAtMs = performance.now()
  const text = new URLSearchParams(Object.entries(query).map(([name, value]) => [name, String(value)]))
  const data = await admin.call<{ total?: number }>('GET', `${path}?${text}`)
  return { ms: performance.now() - startedAtMs, total: data.total ?? 0 }
}
