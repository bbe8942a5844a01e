/**
 * How long a start takes, by the clock, which other work on the machine moves, and in CPU time: from an empty disk until
 * the node is ready, and with thousands of channels until a call is answered.
 */
import { Database } from 'bun:sqlite'
import { join } from 'node:path'
import { createAdminClient } from '../support/admin-client.ts'
import { createNode, type RealNode } from '../support/node.ts'
import { cpuOf } from './processes.ts'
import type { Rig } from './rig.ts'
import type { Row } from './table.ts'
import { CALL_BODY, MODEL, PATHS } from './wire.ts'

/** How long after the first answer nobody looks again: finer than what is measured, coarse enough to cost little. */
const LOOK_MS = 3
const CHANNELS = 10_000
const AIMS_MS = { empty: 300, many: 1_000 } as const

export async function measureStart(rig: Rig, sizes: { readonly rounds: number }): Promise<readonly Row[]> {
  const empty = { ms: [] as number[], cpu: [] as number[] }
  const many = { ms: [] as number[], cpu: [] as number[] }
  const bare: number[] = []
  const grown = await openGrownNode(rig)
  try {
    for (let round = 0; round < sizes.rounds; round++) {
      const bareStart = performance.now()
      const reference = await rig.startReference()
      await fetch(reference.url, { method: 'POST', body: '{}' })
      bare.push(performance.now() - bareStart)
      await reference.stop()

      const node = await createNode({ env: { LOG_LEVEL: 'info' } })
      try {
        await start(node, () => isOk(`${node.url}/readyz`), empty)
      } finally {
        await node.remove()
      }
      await start(grown.node, grown.isServed, many)
      await grown.node.stop()
    }
  } finally {
    await grown.node.remove()
  }
  return [
    {
      figure: 'empty disk to first answer',
      unit: 'ms',
      values: empty.ms,
      reference: bare,
      aim: { kind: 'at most', value: AIMS_MS.empty },
    },
    { figure: 'the same, CPU of the node', unit: 'ms CPU', values: empty.cpu },
    {
      figure: `${CHANNELS} channels to first call`,
      unit: 'ms',
      values: many.ms,
      reference: bare,
      aim: { kind: 'at most', value: AIMS_MS.many },
    },
    { figure: 'the same, CPU of the node', unit: 'ms CPU', values: many.cpu },
  ]
}

async function start(
  node: RealNode,
  isAnswered: () => Promise<boolean>,
  into: { readonly ms: number[]; readonly cpu: number[] },
): Promise<void> {
  const startedAt = performance.now()
  node.start()
  while (!(await isAnswered())) await Bun.sleep(LOOK_MS)
  into.ms.push(performance.now() - startedAt)
  into.cpu.push((await cpuOf(node.supervisorPid())) / 1000)
}

/** A node that has stopped, with a database of many channels, all like one that was made over HTTP. */
async function openGrownNode(rig: Rig): Promise<{ readonly node: RealNode; isServed(): Promise<boolean> }> {
  const file = join(rig.folder, `start-${crypto.randomUUID()}.db`)
  const node = await createNode({ env: { LOG_LEVEL: 'info', SQLITE_PATH: file } })
  try {
    node.start()
    await node.ready()
    const admin = createAdminClient(() => node.url)
    await admin.setUp()
    await admin.channel({ name: 'upstream', baseUrl: rig.mock.url, models: [MODEL] })
    const { key } = await admin.apiKey(await admin.user(1_000_000_000))
    await node.stop()
    multiplyChannels(file)
    const headers = { authorization: `Bearer ${key}`, 'content-type': 'application/json' }
    return {
      node,
      isServed: () => isOk(`${node.url}${PATHS.chat}`, { method: 'POST', headers, body: CALL_BODY }),
    }
  } catch (error) {
    await node.remove()
    throw error
  }
}

function multiplyChannels(file: string): void {
  const db = new Database(file)
  const columnsOf = (table: string) =>
    db
      .query<{ name: string }, []>(`pragma table_info(${table})`)
      .all()
      .map(({ name }) => `"${name}"`)
  const copies = (table: string, id: string): string => {
    const others = columnsOf(table).filter((name) => name !== `"${id}"`)
    return `insert into ${table} ("${id}", ${others}) with recursive copy(n) as (select 2 union all select n + 1 from copy where n < ${CHANNELS})
      select n, ${others.map((name) => (name === '"name"' ? `"name" || ' ' || n` : name))} from ${table}, copy`
  }
  db.run(copies('channels', 'id'))
  db.run(copies('abilities', 'channel_id'))
  db.close()
}

const isOk = (url: string, init: RequestInit = {}): Promise<boolean> =>
  fetch(url, { ...init, keepalive: false }).then(
    async (answer) => {
      await answer.arrayBuffer()
      return answer.ok
    },
    () => false,
  )
