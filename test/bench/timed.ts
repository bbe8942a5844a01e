/**
 * The open loop: calls start when a random schedule says, however long those before them take, and a time counts from
 * there. A program that stands still for a moment so is charged for all that would have come meanwhile.
 */
import { type Answer, type Connection, openConnection, requestOf } from './connection.ts'
import { CALL_BODY, CALL_REPLY, PATHS, streamBody, streamWrites } from './wire.ts'

export interface TimedJob {
  readonly kind: 'timed'
  readonly url: string
  readonly keys: readonly string[]
  readonly perSecond: number
  readonly count: number
  /** How many are not counted: until as many are open as will stay open. */
  readonly unmeasured: number
  /** Streams, and their times end with the first byte of the body; without it small calls, to their last byte. */
  readonly stream?: { readonly chunks: number; readonly paceMs: number }
}

export interface Timed {
  readonly good: number
  readonly failures: readonly string[]
  /** From when it should have begun, in milliseconds, shortest first. */
  readonly timesMs: readonly number[]
  /** How late the generator itself was to begin, in milliseconds, shortest first; it is part of the times. */
  readonly lateMs: readonly number[]
  /** Most that were open at once. */
  readonly openAtOnce: number
}

/** Opened before; more are when they are needed. */
const CONNECTIONS = 128
/**
 * A timer of the event loop is exact to a millisecond, which would send calls in bunches and cost more than what is
 * measured; short waits between two looks at the sockets are exact to about 0.1 ms.
 */
const LOOK_MS = 0.05
const LEAD_MS = 50
const MAX_FAILURES = 5

export async function runTimed(job: TimedJob): Promise<Timed> {
  const failures: string[] = []
  const timesMs: number[] = []
  const lateMs: number[] = []
  const idle = await Promise.all(Array.from({ length: CONNECTIONS }, () => openConnection(job.url)))
  const makeRequest = requests(job)
  let good = 0
  let openNow = 0
  let openAtOnce = 0

  const one = async (number: number, dueAtMs: number): Promise<void> => {
    const startedAtMs = performance.now()
    let connection: Connection | undefined
    openAtOnce = Math.max(openAtOnce, ++openNow)
    try {
      connection = idle.shift() ?? (await openConnection(job.url))
      const answer = await connection.exchange(makeRequest(number))
      const endedAtMs = job.stream ? answer.firstByteAtMs : performance.now()
      check(job, number, answer)
      good++
      if (number < job.unmeasured) return
      timesMs.push(endedAtMs - dueAtMs)
      lateMs.push(startedAtMs - dueAtMs)
    } catch (error) {
      if (failures.length < MAX_FAILURES) failures.push(String(error))
    } finally {
      openNow--
      if (connection) idle.push(connection)
    }
  }

  const all: Promise<void>[] = []
  const due = schedule(job, performance.now() + LEAD_MS)
  const cell = new Int32Array(new SharedArrayBuffer(4))
  await new Promise<void>((resolve) => {
    const look = (): void => {
      const nowMs = performance.now()
      while (all.length < job.count && due[all.length]! <= nowMs) all.push(one(all.length, due[all.length]!))
      if (all.length === job.count) resolve()
      else {
        Atomics.wait(cell, 0, 0, LOOK_MS)
        setImmediate(look)
      }
    }
    look()
  })
  await Promise.all(all)
  for (const connection of idle) connection.close()
  const inOrder = (values: readonly number[]): readonly number[] => values.toSorted((a, b) => a - b)
  return { good, failures, timesMs: inOrder(timesMs), lateMs: inOrder(lateMs), openAtOnce }
}

/** Arrivals of independent clients: the gaps are exponential, and the same for each program that is measured. */
function schedule({ count, perSecond }: TimedJob, startMs: number): readonly number[] {
  let seed = 1
  /** @source https://en.wikipedia.org/wiki/Lehmer_random_number_generator (MINSTD) */
  const random = (): number => {
    seed = (seed * 48_271) % 2_147_483_647
    return seed / 2_147_483_647
  }
  let atMs = startMs
  return Array.from({ length: count }, () => {
    atMs -= (Math.log(random()) * 1_000) / perSecond
    return atMs
  })
}

function requests({ url, keys, stream }: TimedJob): (number: number) => Uint8Array {
  const headers = (key: string) => ({ Authorization: `Bearer ${key}` })
  if (stream)
    return (id) => requestOf(url, PATHS.chat, headers(keys[id % keys.length]!), streamBody('chat', { id, ...stream }))
  const made = keys.map((key) => requestOf(url, PATHS.chat, headers(key), CALL_BODY))
  return (number) => made[number % made.length]!
}

function check({ stream }: TimedJob, id: number, { status, body }: Answer): void {
  const text = body.toString()
  const expected = stream ? [...streamWrites({ id, ...stream })].join('') : CALL_REPLY
  if (status !== 200 || text !== expected) throw new Error(`${id}: ${status} …${text.slice(-300)}`)
}
