/**
 * The generator: a closed loop of small calls over kept connections, or a number of streams that are open at once, or an
 * open loop; all compared with what the mock sent. Runnable with a job as JSON; prints its result as JSON.
 */
import { openConnection, requestOf } from './connection.ts'
import { runTimed, type TimedJob } from './timed.ts'
import { CALL_BODY, CALL_REPLY, type Dialect, PATHS, pieceOf, streamBody, streamWrites, withoutUsage } from './wire.ts'

export type Job =
  | {
      readonly kind: 'calls'
      readonly url: string
      readonly keys: readonly string[]
      readonly headers?: Readonly<Record<string, string>>
      readonly connections: number
      readonly calls: number
    }
  | {
      readonly kind: 'streams'
      readonly url: string
      readonly keys: readonly string[]
      readonly dialect: Dialect
      /** In all, and at once. */
      readonly streams: number
      readonly open: number
      readonly chunks: number
      readonly paceMs: number
    }

export interface LoadResult {
  /** Answers that are exactly what the mock sent. */
  readonly good: number
  readonly failures: readonly string[]
  readonly seconds: number
  /** Answers per second, from when a tenth has come: until then the generator itself is being compiled. */
  readonly perSecond: number
  /** Of the generator, in microseconds. */
  readonly cpuUs: number
  /** Most streams that were open at once, past their first chunk. */
  readonly openAtOnce: number
  /** Content frames that did not arrive. */
  readonly lostEvents: number
}

const MAX_FAILURES = 5

export async function runLoad(job: Job): Promise<LoadResult> {
  const failures: string[] = []
  const startedAtMs = performance.now()
  const tenth = Math.floor((job.kind === 'calls' ? job.calls : job.streams) / 10)
  let tenthAtMs = startedAtMs
  const cpuStart = process.cpuUsage()
  let begun = 0
  let good = 0
  let openNow = 0
  let openAtOnce = 0
  let lostEvents = 0

  const reply = Buffer.from(CALL_REPLY)
  const requests = job.kind === 'calls' ? job.keys.map((key) => callRequest(job, key)) : []
  const callAll = async (job: Job & { kind: 'calls' }): Promise<void> => {
    const connection = await openConnection(job.url)
    await worker(job.calls, async (number) => {
      const { status, body } = await connection.exchange(requests[number % requests.length]!)
      if (status !== 200 || !reply.equals(body)) throw new Error(`${status} ${body.toString().slice(0, 300)}`)
    })
    connection.close()
  }

  const stream = async (job: Job & { kind: 'streams' }, id: number): Promise<void> => {
    const order = { id, chunks: job.chunks, paceMs: job.paceMs }
    const key = job.keys[id % job.keys.length]
    const answer = await fetch(`${job.url}${PATHS[job.dialect]}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${key}` },
      body: streamBody(job.dialect, order),
    })
    if (answer.status !== 200 || !answer.body)
      throw new Error(`${answer.status} ${(await answer.text()).slice(0, 300)}`)
    const utf8 = new TextDecoder()
    let text = ''
    try {
      for await (const chunk of answer.body) {
        if (text === '') openAtOnce = Math.max(openAtOnce, ++openNow)
        text += utf8.decode(chunk, { stream: true })
      }
    } finally {
      if (text !== '') openNow--
      const pieces = job.dialect === 'claude' ? claudePieces(text) : chatPieces(text)
      lostEvents += Math.max(0, job.chunks - pieces.length)
    }
    if (!isComplete(job.dialect, text, order)) throw new Error(`stream ${id} differs: …${text.slice(-300)}`)
  }

  const worker = async (total: number, one: (number: number) => Promise<void>): Promise<void> => {
    while (begun < total) {
      try {
        await one(begun++)
        if (++good === tenth) tenthAtMs = performance.now()
      } catch (error) {
        if (failures.length < MAX_FAILURES) failures.push(String(error))
      }
    }
  }
  const inParallel = (n: number, run: () => Promise<void>): Promise<unknown> =>
    Promise.all(Array.from({ length: n }, run))

  if (job.kind === 'calls') await inParallel(job.connections, () => callAll(job))
  else await inParallel(job.open, () => worker(job.streams, (id) => stream(job, id)))
  const cpu = process.cpuUsage(cpuStart)
  const endedAtMs = performance.now()
  return {
    good,
    failures,
    seconds: (endedAtMs - startedAtMs) / 1000,
    perSecond: (good - tenth) / ((endedAtMs - tenthAtMs) / 1000),
    cpuUs: cpu.user + cpu.system,
    openAtOnce,
    lostEvents,
  }
}

const callRequest = ({ url, headers }: Job & { kind: 'calls' }, key: string): Uint8Array =>
  requestOf(url, PATHS.chat, { Authorization: `Bearer ${key}`, ...headers }, CALL_BODY)

/** The same dialect to the byte; a converted stream by its texts and its last event. */
function isComplete(dialect: Dialect, text: string, order: { id: number; chunks: number; paceMs: number }): boolean {
  if (dialect !== 'claude') {
    const sent = [...streamWrites(order)].join('')
    return text === (dialect === 'chat' ? sent : withoutUsage(sent))
  }
  const expected = Array.from({ length: order.chunks }, (_, chunk) => pieceOf(order.id, chunk)).join('')
  return claudePieces(text).join('') === expected && text.includes('event: message_stop')
}

const dataOf = (text: string): readonly string[] =>
  text
    .split('\n')
    .filter((line) => line.startsWith('data: {') && line.endsWith('}'))
    .map((line) => line.slice('data: '.length))

const chatPieces = (text: string): readonly string[] =>
  dataOf(text).flatMap((data) => {
    const { choices } = JSON.parse(data) as { choices: readonly { delta: { content?: string } }[] }
    return choices[0]?.delta.content ?? []
  })

const claudePieces = (text: string): readonly string[] =>
  dataOf(text).flatMap((data) => (JSON.parse(data) as { delta?: { text?: string } }).delta?.text ?? [])

if (import.meta.main) {
  const job = JSON.parse(process.argv[2] ?? '{}') as Job | TimedJob
  console.log(JSON.stringify(await (job.kind === 'timed' ? runTimed(job) : runLoad(job))))
}
