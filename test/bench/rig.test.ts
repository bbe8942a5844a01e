/** A benchmark that compares nothing or counts too little would only ever show good news: that it does is tested here. */
import { describe, expect, test } from 'bun:test'
import { openConnection, requestOf } from './connection.ts'
import { runLoad } from './load.ts'
import { formatSections, judge, type Row } from './table.ts'
import { runTimed } from './timed.ts'
import { CALL_REPLY } from './wire.ts'

/** Answers each request, taken to come in one piece, with these bytes, so many at a time. */
async function withServer(
  options: { readonly answer: () => string; readonly pieceBytes: number },
  work: (url: string) => Promise<void>,
): Promise<void> {
  const server = Bun.listen({
    hostname: '127.0.0.1',
    port: 0,
    socket: {
      async data(socket) {
        const answer = options.answer()
        for (let at = 0; at < answer.length; at += options.pieceBytes) {
          socket.write(answer.slice(at, at + options.pieceBytes))
          socket.flush()
          if (options.pieceBytes < answer.length) await new Promise(setImmediate)
        }
      },
    },
  })
  await work(`http://127.0.0.1:${server.port}`).finally(() => server.stop(true))
}

const withLength = (body: string): string => `HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n\r\n${body}`
const inChunks = (...parts: readonly string[]): string =>
  `HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n${parts.map((part) => `${part.length.toString(16)}\r\n${part}\r\n`).join('')}0\r\n\r\n`

describe('the generator', () => {
  const answers = [
    { name: 'with a length', answer: withLength('a whole body'), body: 'a whole body' },
    { name: 'in chunks', answer: inChunks('a body', ' in chunks\r\n', 'of several sizes'.repeat(3)), body: undefined },
  ]
  for (const { name, answer, body = `a body in chunks\r\n${'of several sizes'.repeat(3)}` } of answers)
    test(`reads an answer ${name}, in pieces of any size, again and again`, async () => {
      for (const pieceBytes of [1, 2, 3, 7, 1_000])
        await withServer({ answer: () => answer, pieceBytes }, async (url) => {
          const connection = await openConnection(url)
          for (let exchange = 0; exchange < 3; exchange++) {
            const got = await connection.exchange(requestOf(url, '/', {}, '{}'))
            expect([got.status, got.body.toString()]).toEqual([200, body])
          }
          connection.close()
        })
    })

  test('counts an answer that differs in one byte as a failure', async () => {
    let calls = 0
    const answer = () => withLength(++calls === 7 ? CALL_REPLY.replace('Saturn', 'Satvrn') : CALL_REPLY)
    await withServer({ answer, pieceBytes: 10_000 }, async (url) => {
      const result = await runLoad({ kind: 'calls', url, keys: ['any'], connections: 2, calls: 20 })
      expect(result.good).toBe(19)
      expect(result.failures).toHaveLength(1)
      expect(result.failures[0]).toContain('Satvrn')
    })
  })

  test('charges a pause of the server to every call that was due in it', async () => {
    const PAUSE_MS = 300
    const EVERY_MS = 2
    let pause: Promise<void> | undefined
    const server = Bun.serve({
      hostname: '127.0.0.1',
      port: 0,
      async fetch() {
        pause ??= Bun.sleep(PAUSE_MS)
        await pause
        return new Response(CALL_REPLY)
      },
    })
    const job = { kind: 'timed', url: server.url.origin, keys: ['any'], unmeasured: 0 } as const
    const { good, timesMs } = await runTimed({ ...job, perSecond: 1_000 / EVERY_MS, count: 200 })
    await server.stop(true)
    expect(good).toBe(200)
    // A closed loop would see one slow call for each connection.
    expect(timesMs.filter((ms) => ms > PAUSE_MS / 3).length).toBeGreaterThan(PAUSE_MS / EVERY_MS / 3)
  })
})

describe('the table', () => {
  const row: Row = { figure: 'a call', unit: 'µs CPU', values: [30, 10, 20], reference: [10, 10, 10] }

  test('judges the median of the rounds, each beside the reference of its own', () => {
    const aim = { kind: 'at most × reference', times: 2 } as const
    expect(judge({ ...row, aim })).toMatchObject({ timesReference: 2, isMet: true })
    expect(judge({ ...row, values: [30, 30, 20], aim })).toMatchObject({ timesReference: 3, isMet: false })
  })

  test('says neither yes nor no where something was not measured', () => {
    const aim = { kind: 'at most × reference', times: 2 } as const
    const absent = { ...row, reference: [], aim, missing: 'it is not installed' }
    expect(judge(absent).isMet).toBeUndefined()
    expect(formatSections([{ title: 'Calls', rows: [absent], seconds: 1 }])).toContain(
      'Not available: it is not installed.',
    )
  })

  test('says neither of values that are in doubt, and shows them', () => {
    const aim = { kind: 'at most', value: 100 } as const
    const doubtful = { ...row, aim, doubt: 'the machine was busy' }
    expect(judge(doubtful).isMet).toBeUndefined()
    const table = formatSections([{ title: 'Calls', rows: [doubtful], seconds: 1 }])
    expect(table).toContain('20.0')
    expect(table).toContain('In doubt: the machine was busy.')
  })

  test('makes no multiple of a reference that is nothing or less', () => {
    expect(judge({ ...row, reference: [10, -1, 10] }).timesReference).toBeUndefined()
  })
})
