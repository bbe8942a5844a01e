/** Log lines are whole, carry no secrets, rotate and are cleaned up; a log that cannot be written stops nobody. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { mkdtemp, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createLog, type LogSink } from '../../src/lib/log.ts'
import { createStreamSink, openFileSink } from '../../src/lib/log-sinks.ts'
import { redactAddress, redactText } from '../../src/lib/redact.ts'

let root: string
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'headgate-log-'))
})
afterAll(() => rm(root, { recursive: true, force: true }))

const memorySink = (): LogSink & { text: string } => ({
  text: '',
  write(lines) {
    this.text += lines
  },
  close: async () => {},
})

describe('a line', () => {
  test('is one JSON object with time, level, text and the fields of its log, and lines below the level are left out', async () => {
    const sink = memorySink()
    const log = createLog({ level: 'info', sinks: [sink], now: () => 0, fields: { node: 'a' } })
    log.debug('hidden')
    log.child({ worker: 1 }).info('shown', { count: 2 })
    await log.close()
    expect(sink.text).toBe(
      '{"time":"1970-01-01T00:00:00.000Z","level":"info","msg":"shown","node":"a","worker":1,"count":2}\n',
    )
  })

  test('survives what JSON cannot hold: bigints, circles, errors with causes, bytes', async () => {
    const sink = memorySink()
    const log = createLog({ level: 'debug', sinks: [sink] })
    const circle: Record<string, unknown> = { big: 2n ** 70n, bytes: new Uint8Array(3) }
    circle['self'] = circle
    log.error('odd', { circle, error: new Error('outer', { cause: new TypeError('inner') }), map: new Map([['a', 1]]) })
    await log.close()
    const line = JSON.parse(sink.text)
    expect(line.circle.big).toBe('1180591620717411303424')
    expect(line.circle.bytes).toBe('[3 bytes]')
    expect(line.error.message).toBe('outer')
    expect(line.error.cause).toMatchObject({ name: 'TypeError', message: 'inner' })
    expect(line.map).toEqual({ a: 1 })
  })

  test('holds no secret: neither under a telling name nor inside a text, also not in an error', async () => {
    const sink = memorySink()
    const log = createLog({ level: 'debug', sinks: [sink] })
    const canary = 'c4n4ry-v4lue'
    log.info(`calling https://user:${canary}@host/path?key=${canary}&x=1 with Bearer ${canary}00`, {
      password: canary,
      sessionSecret: canary,
      api_key: canary,
      authorization: `Bearer ${canary}`,
      nested: { accessToken: canary, list: [`root:${canary}@tcp(db:3306)/name`, `sk-${canary}`] },
      error: new Error(`connect redis://default:${canary}@host:6379 failed`),
      promptTokens: 17,
      tokenName: 'mine',
    })
    await log.close()
    expect(sink.text).not.toContain(canary)
    expect(JSON.parse(sink.text)).toMatchObject({ promptTokens: 17, tokenName: 'mine' })
    expect(sink.text).toContain('tcp(db:3306)/name')
  })
})

test('an address is shown without its password, whatever characters that has', () => {
  expect(redactAddress('root:p@ss:w/rd?@tcp(db:3306)/new-api')).toBe('root:***@tcp(db:3306)/new-api')
  expect(redactAddress('mysql://root:p@ss@db/new')).toBe('mysql://root:***@db/new')
  expect(redactAddress('redis://:secret@host:6379/1')).toBe('redis://:***@host:6379/1')
  expect(redactAddress('root:secret@/new')).toBe('root:***@/new')
  expect(redactAddress('redis://host:6379')).toBe('redis://host:6379')
  expect(redactText('a plain text with nothing in it')).toBe('a plain text with nothing in it')
})

describe('log files', () => {
  const options = { name: 'worker0', maxBytes: 1_000, keepDays: 0, keepBytes: 0 }
  const DAY = 86_400_000

  test('a new one follows at the size and at each day, and no line is lost or cut', async () => {
    const directory = join(root, 'rotate')
    let nowMs = Date.UTC(2030, 0, 15, 12)
    const sink = openFileSink({ ...options, directory, now: () => nowMs })
    for (let i = 0; i < 30; i++) sink.write(`${JSON.stringify({ line: i, fill: 'x'.repeat(80) })}\n`)
    nowMs += DAY
    sink.write(`${JSON.stringify({ line: 30 })}\n`)
    await sink.close()
    const files = (await readdir(directory)).sort()
    expect(files.length).toBe(4)
    const lines = (await Promise.all(files.map((file) => readFile(join(directory, file), 'utf8')))).flatMap((text) =>
      text.trimEnd().split('\n'),
    )
    expect(lines.map((line) => JSON.parse(line).line).sort((a, b) => a - b)).toEqual(
      Array.from({ length: 31 }, (_, i) => i),
    )
  })

  test('old files and those past the sum are deleted, files of others are left alone', async () => {
    const directory = join(root, 'retention')
    const nowMs = Date.UTC(2030, 0, 15, 12)
    await openFileSink({ ...options, directory, now: () => nowMs }).close()
    const put = async (name: string, ageDays: number, bytes: number): Promise<void> => {
      await writeFile(join(directory, name), 'x'.repeat(bytes))
      await utimes(join(directory, name), (nowMs - ageDays * DAY) / 1000, (nowMs - ageDays * DAY) / 1000)
    }
    await put('headgate-20300101-000000-worker1-77.log', 14, 10)
    await put('headgate-20300112-000000-worker1-77.log', 3, 600)
    await put('headgate-20300113-000000-worker1-77.log', 2, 600)
    await put('headgate-20300114-000000-worker1-77.log', 1, 300)
    await put('oneapi-20300101000000.log', 14, 10)
    await openFileSink({ ...options, directory, keepDays: 7, keepBytes: 1_000, now: () => nowMs }).close()
    const left = await readdir(directory)
    expect(left).toContain('oneapi-20300101000000.log')
    expect(left).toContain('headgate-20300113-000000-worker1-77.log')
    expect(left).toContain('headgate-20300114-000000-worker1-77.log')
    expect(left).not.toContain('headgate-20300101-000000-worker1-77.log')
    expect(left).not.toContain('headgate-20300112-000000-worker1-77.log')
  })

  test('a file that somebody deleted while it was in use is made anew, so lines do not go nowhere', async () => {
    const directory = join(root, 'deleted')
    let nowMs = Date.UTC(2030, 0, 15, 12)
    const sink = openFileSink({ ...options, directory, now: () => nowMs })
    sink.write('first\n')
    await rm(join(directory, (await readdir(directory))[0]!))
    nowMs += 11_000
    sink.write('second\n')
    await sink.close()
    expect(await readFile(join(directory, (await readdir(directory))[0]!), 'utf8')).toBe('second\n')
  })

  test('two sinks of one process that start in the same second do not share a file', async () => {
    const directory = join(root, 'same-second')
    const now = (): number => Date.UTC(2030, 0, 15, 12)
    const sinks = [openFileSink({ ...options, directory, now }), openFileSink({ ...options, directory, now })]
    for (const sink of sinks) await sink.close()
    expect((await readdir(directory)).length).toBe(2)
  })
})

describe('standard output', () => {
  test('keeps lines whole in pieces that a pipe takes at once', async () => {
    const pieces: string[] = []
    const stream = {
      on: () => stream,
      write(text: string, done: () => void) {
        pieces.push(text)
        done()
        return true
      },
    }
    const sink = createStreamSink(stream as unknown as NodeJS.WriteStream)
    const lines = Array.from({ length: 200 }, (_, i) => `${i} ${'y'.repeat(97)}\n`)
    lines.splice(50, 0, `${'z'.repeat(10_000)}\n`)
    sink.write(lines.join(''))
    await sink.close()
    expect(pieces.join('')).toBe(lines.join(''))
    for (const piece of pieces) {
      expect(piece.endsWith('\n')).toBe(true)
      expect(piece.length <= 4096 || piece.startsWith('z')).toBe(true)
    }
  })

  test('a reader that never reads costs bounded memory and lines, not the process', async () => {
    let held = 0
    const pending: (() => void)[] = []
    const stream = {
      on: () => stream,
      write: (text: string, done: () => void) => {
        held += text.length
        pending.push(done)
        return false
      },
    }
    const sink = createStreamSink(stream as unknown as NodeJS.WriteStream)
    for (let i = 0; i < 30_000; i++) sink.write(`${'x'.repeat(999)}\n`)
    expect(held).toBeLessThan(9 * 1024 * 1024)
    for (const done of pending.splice(0)) done()
    const before = held
    sink.write('after\n')
    expect(held - before).toBeGreaterThan('after\n'.length)
  })
})
