/** The journal of one worker: what is in it after kills, who may open it, and what a full disk does. */
import { Database } from 'bun:sqlite'
import { afterAll, expect, test } from 'bun:test'
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Outbox, openOutbox } from '../../../src/domain/billing/outbox.ts'
import { createOutboxes } from '../../../src/domain/billing/outboxes.ts'
import { systemClock } from '../../../src/lib/clock.ts'
import { type Log, silentLog } from '../../../src/lib/log.ts'
import { type Checkpoint, checkpointFile, createWal } from '../../../src/lib/wal.ts'
import { eventually } from '../../support/eventually.ts'

const folder = mkdtempSync(join(tmpdir(), 'headgate-outbox-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

let files = 0
const path = (): string => join(folder, `${++files}.db`)
const open = (at: string, maxPages?: number, more: { isKept?: boolean; file?: () => string } = {}): Outbox => {
  const opened = openOutbox({ path: at, sync: 'normal', ...(maxPages ? { maxPages } : {}), ...more })
  if (opened.kind !== 'open') throw new Error(`the outbox is ${opened.kind}`)
  return opened.outbox
}
const entry = (body: string) => ({ body, other: '{}' })
/** By a connection of its own, as the supervisor's is. */
const byAnother: Checkpoint = async (file) => {
  checkpointFile(file)
  return true
}
/** Without one a worker has the file alone, as in releases before there was one. */
const WAYS = [
  { way: 'alone', checkpoint: undefined },
  { way: 'with a supervisor', checkpoint: byAnother },
] as const

test('charges of one tick are committed together, and are there after the file was not closed', async () => {
  const at = path()
  const script = `
    import { openOutbox } from ${JSON.stringify(join(import.meta.dir, '../../../src/domain/billing/outbox.ts'))}
    const { outbox } = openOutbox({ path: ${JSON.stringify(at)}, sync: 'normal' })
    outbox.begin('a')
    const first = [outbox.append({ body: '1', other: '{}' }), outbox.append({ body: '2', other: '{}' })]
    if (first[0] !== first[1]) throw new Error('two commits in one tick')
    await first[0]
    await outbox.append({ body: '3', other: '{}' })
    process.kill(process.pid, 'SIGKILL')`
  const child = Bun.spawn([process.execPath, '-e', script], { stdout: 'inherit', stderr: 'inherit' })
  await child.exited
  const outbox = open(at)
  expect(outbox.read('a', 0, 10).map(({ seq, body }) => [seq, body])).toEqual([
    [1, '1'],
    [2, '2'],
    [3, '3'],
  ])
  outbox.close()
})

for (const holder of WAYS)
  for (const other of WAYS)
    test(`an outbox held ${holder.way} is locked for one that would hold it ${other.way}, here and elsewhere, until it is closed`, async () => {
      const at = path()
      const take = ({ checkpoint }: (typeof WAYS)[number]) => openOutbox({ path: at, sync: 'normal', checkpoint })
      const script = `
        import { openOutbox } from ${JSON.stringify(join(import.meta.dir, '../../../src/domain/billing/outbox.ts'))}
        const checkpoint = ${other.checkpoint ? 'async () => true' : 'undefined'}
        const opened = openOutbox({ path: ${JSON.stringify(at)}, sync: 'normal', checkpoint })
        console.log(opened.kind)
        opened.outbox?.close()`
      const ask = async (): Promise<string> =>
        (await new Response(Bun.spawn([process.execPath, '-e', script], { stdout: 'pipe' }).stdout).text()).trim()
      const first = take(holder)
      if (first.kind !== 'open') throw new Error(`the outbox is ${first.kind}`)
      first.outbox.begin('a')
      expect(take(other).kind).toBe('locked')
      expect(await ask()).toBe('locked')
      // Neither a refused try nor a checkpoint must have dropped the lock.
      expect(await ask()).toBe('locked')
      await first.outbox.append(entry('1'))
      if (holder.checkpoint) checkpointFile({ path: at, inode: statSync(at).ino })
      expect(await ask()).toBe('locked')
      first.outbox.close()
      expect(await ask()).toBe('open')
      const again = take(other)
      if (again.kind !== 'open') throw new Error(`the outbox is ${again.kind}`)
      expect(again.outbox.read('a', 0, 10)).toMatchObject([{ seq: 1, body: '1' }])
      again.outbox.close()
    })

test('while a log is copied for the second time charges wait, then they are there, and the log begins anew', async () => {
  const at = path()
  const passes: PromiseWithResolvers<void>[] = []
  const checkpoint: Checkpoint = async (file) => {
    const pass = Promise.withResolvers<void>()
    passes.push(pass)
    await pass.promise
    checkpointFile(file)
    return true
  }
  const opened = openOutbox({ path: at, sync: 'normal', checkpoint })
  if (opened.kind !== 'open') throw new Error(`the outbox is ${opened.kind}`)
  const { outbox } = opened
  outbox.begin('a')
  const big = 'x'.repeat(8_000)
  let written = 0
  const write = async (): Promise<void> => {
    await outbox.append(entry(big))
    written++
  }
  while (statSync(`${at}-wal`).size < 36e6) await write()
  await outbox.sync()
  await eventually('the first pass', () => passes.length === 1)
  // Nobody waits for the first.
  await write()
  passes[0]!.resolve()
  await eventually('the second pass', () => passes.length === 2)
  const before = written
  const late = write()
  await outbox.sync()
  expect(written).toBe(before)
  expect(passes).toHaveLength(2)
  passes[1]!.resolve()
  await late
  expect(written).toBe(before + 1)
  expect(statSync(`${at}-wal`).size).toBeLessThan(34e6)
  expect(outbox.read('a', 0, written + 1)).toHaveLength(written)
  outbox.close()
})

test('a checkpoint is of the file that is written, not of one that took its name; a link to it has its log beside it', async () => {
  const at = path()
  const outbox = open(at)
  expect(() => checkpointFile({ path: at, inode: statSync(at).ino + 1 })).toThrow('no longer the file')
  outbox.close()
  const link = path()
  symlinkSync(at, link)
  const db = new Database(link)
  db.run('pragma journal_mode=wal')
  db.run('create table t (a)')
  const wal = createWal({ db, maxFrames: 10, checkpoint: undefined, quietly: (work) => work() })
  await wal.sync()
  for (let n = 0; n < 20; n++) db.run('insert into t values (1)')
  await wal.sync()
  const [row] = db.query('pragma wal_checkpoint(noop)').values() as number[][]
  expect(row?.[1]).toBeGreaterThan(10)
  expect(row?.[2]).toBe(row?.[1])
  wal.close()
  db.close()
})

test('every instance counts from 1, and one without charges stays without', async () => {
  const at = path()
  const outbox = open(at)
  outbox.begin('a')
  outbox.begin('b')
  await Promise.all([outbox.append(entry('b1')), outbox.append(entry('b2'))])
  outbox.begin('c')
  await outbox.append(entry('c1'))
  const seen = (each: Outbox) =>
    each
      .tenures()
      .map(({ instanceId }) => [
        instanceId,
        each.lastSeq(instanceId),
        each.read(instanceId, 0, 10).map(({ body }) => body),
      ])
  const expected = [
    ['a', 0, []],
    ['b', 2, ['b1', 'b2']],
    ['c', 1, ['c1']],
  ]
  expect(seen(outbox)).toEqual(expected as never)
  outbox.close()
  const again = open(at)
  expect(seen(again)).toEqual(expected as never)
  again.close()
})

test('of a charge that is remembered there is what it was made of; it counts as its texts do, which the file has', async () => {
  const at = path()
  const outbox = open(at)
  outbox.begin('a')
  const text = (n: number): string => `${n}`.repeat(98)
  await Promise.all([1, 2, 3].map((n) => outbox.append({ ...entry(text(n)), memo: { n } })))
  expect(outbox.read('a', 0, 10).map(({ seq, memo, chars }) => [seq, memo, chars])).toEqual([
    [1, { n: 1 }, 100],
    [2, { n: 2 }, 100],
    [3, { n: 3 }, 100],
  ])
  expect(outbox.read('a', 0, 10, 250).map(({ seq }) => seq)).toEqual([1, 2])
  outbox.close()
  const again = open(at)
  expect(again.read('a', 0, 10, 250)).toEqual([1, 2].map((n) => ({ seq: n, ...entry(text(n)), chars: 100 })))
  again.close()
})

test('many charges leave in several steps; a file that is closed in between forgets none of its marks', async () => {
  const at = path()
  let outbox = open(at)
  outbox.begin('a')
  await Promise.all(Array.from({ length: 1_200 }, (_, n) => outbox.append(entry(String(n + 1)))))
  for (const part of ['main', 'log'] as const) outbox.mark('a', part, { seq: 1_100, last: 'r1100' })
  const left = (): number => outbox.read('a', outbox.firstKept('a') - 1, 2_000).length
  expect(outbox.settle(outbox.tenures(), 0)).toBe(true)
  expect([left(), outbox.isUnsettled()]).toEqual([700, true])
  expect(outbox.settle(outbox.tenures(), 0)).toBe(true)
  expect([left(), outbox.isUnsettled()]).toEqual([200, true])
  outbox.close()
  outbox = open(at)
  expect(outbox.tenures()).toMatchObject([{ main: { seq: 1_100 }, log: { seq: 1_100 } }])
  expect(outbox.lastSeq('a')).toBe(1_200)
  for (const part of ['main', 'log'] as const) outbox.mark('a', part, { seq: 1_200, last: 'r1200' })
  expect(outbox.settle(outbox.tenures(), 0)).toBe(false)
  expect([left(), outbox.isUnsettled()]).toEqual([0, false])
  outbox.close()
})

test('a charge leaves when both databases have it, and numbers go on after it', async () => {
  const at = path()
  let outbox = open(at)
  outbox.begin('a')
  for (const body of ['1', '2', '3']) await outbox.append(entry(body))
  outbox.mark('a', 'main', { seq: 3, last: 'r3' })
  outbox.mark('a', 'log', { seq: 2, last: 'r2' })
  expect(outbox.read('a', 0, 10).map(({ seq }) => seq)).toEqual([1, 2, 3])
  outbox.settle(outbox.tenures(), 0)
  expect(outbox.read('a', 0, 10).map(({ seq }) => seq)).toEqual([3])
  const before = outbox.tenures()
  outbox.mark('a', 'log', { seq: 3, last: 'r3' })
  // What a database was not synced with stays.
  outbox.settle(before, 0)
  expect(outbox.read('a', 0, 10).map(({ seq }) => seq)).toEqual([3])
  outbox.settle(outbox.tenures(), 0)
  expect(outbox.isUnsettled()).toBe(false)
  expect(outbox.read('a', 0, 10)).toEqual([])
  outbox.close()
  outbox = open(at)
  expect(outbox.lastSeq('a')).toBe(3)
  expect(outbox.tenures()).toMatchObject([{ main: { seq: 3, last: 'r3' }, log: { seq: 3, last: 'r3' } }])
  outbox.begin('b')
  await outbox.append(entry('b1'))
  outbox.forget('a')
  expect(outbox.read('b', 0, 10)).toMatchObject([{ seq: 1, body: 'b1' }])
  expect(outbox.tenures().map(({ instanceId }) => instanceId)).toEqual(['b'])
  outbox.close()
})

test('kept charges stay until they are removed, some at a time, and never more than both databases have', async () => {
  const at = path()
  let outbox = open(at, undefined, { isKept: true })
  outbox.begin('a')
  await Promise.all(Array.from({ length: 1_200 }, (_, n) => outbox.append(entry(String(n + 1)))))
  const mark = (main: number, log: number): void => {
    outbox.mark('a', 'main', { seq: main, last: `r${main}` })
    outbox.mark('a', 'log', { seq: log, last: `r${log}` })
  }
  mark(900, 700)
  outbox.settle(outbox.tenures(), 1_000)
  mark(1_100, 1_100)
  outbox.settle(outbox.tenures(), 2_000)
  expect(outbox.read('a', 0, 1)).toMatchObject([{ seq: 1, body: '1' }])
  // Since when they were there is known over a restart.
  outbox.close()
  outbox = open(at, undefined, { isKept: true })
  expect([999, 1_000, 1_999, 2_000].map((atMs) => outbox.appliedBy('a', atMs))).toEqual([0, 700, 700, 1_100])
  // A database went back meanwhile: what is to be applied again was there since then no longer.
  const before = outbox.tenures()
  mark(1_100, 800)
  outbox.settle(before, 3_000)
  outbox.settle(outbox.tenures(), 4_000)
  expect([3_999, 4_000].map((atMs) => outbox.appliedBy('a', atMs))).toEqual([700, 800])
  const removed: number[] = []
  for (let count = -1; count !== 0; removed.push(count)) count = outbox.remove('a', 1_200)
  expect(removed).toEqual([500, 300, 0])
  expect(outbox.firstKept('a')).toBe(801)
  expect(outbox.lastSeq('a')).toBe(1_200)
  outbox.close()
})

test('only on the very file that was locked does its lock prove anything about those before; once doubtful, always', () => {
  const at = path()
  const begin = (file: string, instanceId: string): readonly boolean[] => {
    const outbox = open(at, undefined, { file: () => file })
    outbox.begin(instanceId)
    const isForeign = outbox.tenures().map((tenure) => tenure.isForeign)
    outbox.close()
    return isForeign
  }
  // The first note is made in a file of a release that made none.
  expect(begin('one', 'a')).toEqual([false])
  expect(begin('one', 'b')).toEqual([false, false])
  expect(begin('another', 'c')).toEqual([true, true, false])
  expect(begin('another', 'd')).toEqual([true, true, false, false])
})

test('a file of an earlier release is opened with what it has', () => {
  const at = path()
  const raw = new Database(at, { create: true })
  raw.run(`create table instances (instance_id text primary key, base integer not null,
    main_seq integer not null default 0, main_last text not null default '',
    log_seq integer not null default 0, log_last text not null default '') without rowid`)
  raw.run('create table charges (id integer primary key, body text not null, other text not null)')
  raw.run("insert into instances (instance_id, base) values ('a', 1)")
  raw.run("insert into charges values (2, '1', '{}')")
  raw.close()
  const outbox = open(at, undefined, { isKept: true, file: () => 'one' })
  expect(outbox.tenures()).toMatchObject([{ instanceId: 'a', isForeign: false }])
  expect(outbox.read('a', 0, 10)).toMatchObject([{ seq: 1, body: '1' }])
  outbox.close()
})

test('an instance is not forgotten before an older one, whose end would move with it', async () => {
  const at = path()
  const outbox = open(at)
  outbox.begin('a')
  await outbox.append(entry('a1'))
  outbox.mark('a', 'main', { seq: 1, last: 'ra1' })
  outbox.begin('b')
  outbox.begin('c')
  outbox.forget('b')
  expect(outbox.lastSeq('a')).toBe(1)
  outbox.mark('a', 'log', { seq: 1, last: 'ra1' })
  outbox.forget('a')
  outbox.forget('b')
  expect(outbox.tenures().map(({ instanceId }) => instanceId)).toEqual(['c'])
  outbox.close()
})

test('what does not fit is set aside, all of it, and is no longer waited for', async () => {
  const outbox = open(path())
  outbox.begin('a')
  for (const body of ['1', '2', '3']) await outbox.append(entry(body))
  outbox.mark('a', 'main', { seq: 1, last: 'r1' })
  expect(outbox.setAside('a', 'main', 1, 'does not fit', 0)).toBe(2)
  expect(outbox.setAsideCount()).toBe(2)
  expect(outbox.tenures()[0]?.main.seq).toBe(3)
  outbox.close()
})

test('on a full disk a charge is refused, not half written, and the outbox recovers', async () => {
  const outbox = open(path(), 24)
  outbox.begin('a')
  const big = 'x'.repeat(3_000)
  let written = 0
  const fill = async (): Promise<void> => {
    for (;;) {
      await Promise.all([outbox.append(entry(big)), outbox.append(entry(big))])
      written += 2
    }
  }
  // Caught first: `rejects` of a promise that is still pending holds the event loop back.
  expect(String(await fill().catch((error: unknown) => error))).toContain('full')
  expect(outbox.isWritable()).toBe(false)
  expect(outbox.read('a', 0, 1_000).length).toBe(written)
  outbox.mark('a', 'main', { seq: written, last: '' })
  outbox.mark('a', 'log', { seq: written, last: '' })
  outbox.settle(outbox.tenures(), 0)
  outbox.probe()
  expect(outbox.isWritable()).toBe(true)
  await outbox.append(entry('after'))
  expect(outbox.read('a', written, 10)).toMatchObject([{ seq: written + 1, body: 'after' }])
  outbox.close()
})

test.each(WAYS)(
  '$way workers take different outboxes, and an orphan with something in it is adopted',
  async ({ checkpoint }) => {
    const dataDir = mkdtempSync(join(folder, 'node-'))
    const create = () => createOutboxes({ dataDir, sync: 'normal', log: silentLog, clock: systemClock, checkpoint })
    const [first, second, third] = [create(), create(), create()]
    expect(first.openOwn().path).toEndWith('1.db')
    const orphan = second.openOwn()
    expect(orphan.path).toEndWith('2.db')
    third.openOwn()
    orphan.begin('a')
    await orphan.append(entry('1'))
    expect(first.adopt()).toEqual([])
    second.close()
    third.close()
    expect(first.adopt().map((outbox) => outbox.path)).toEqual([orphan.path])
    expect(first.adopt()).toEqual([])
    const [adopted] = first.adopted()
    expect(adopted?.read('a', 0, 10)).toMatchObject([{ seq: 1, body: '1' }])
    first.release(adopted!)
    expect(second.openOwn().path).toEndWith('2.db')
    first.close()
    second.close()
  },
)

test('an outbox that fails its check is adopted by nobody, and held by nobody', async () => {
  const dataDir = mkdtempSync(join(folder, 'node-'))
  const create = () => createOutboxes({ dataDir, sync: 'normal', log: silentLog, clock: systemClock })
  const [first, second, third] = [create(), create(), create()]
  first.openOwn()
  second.openOwn().begin('a')
  second.close()
  const news = first.adopt(() => {
    throw new Error('another database')
  })
  expect(news).toEqual([])
  expect(first.all()).toHaveLength(1)
  expect(third.openOwn().path).toEndWith('2.db')
  third.close()
  expect(first.adopt()).toHaveLength(1)
  first.close()
})

test.each(WAYS)(
  '$way an outbox that cannot be read is kept aside and reported, and the start goes on',
  ({ checkpoint }) => {
    const dataDir = mkdtempSync(join(folder, 'node-'))
    const errors: string[] = []
    const log: Log = { ...silentLog, error: (msg) => errors.push(msg) }
    const outboxes = createOutboxes({ dataDir, sync: 'normal', log, clock: systemClock, checkpoint })
    outboxes.openOwn()
    outboxes.close()
    writeFileSync(join(dataDir, 'ledger', '1.db'), 'this is no database'.repeat(1_000))
    const outbox = outboxes.openOwn()
    outbox.begin('a')
    expect(outbox.path).toEndWith('1.db')
    expect(errors).toHaveLength(1)
    expect(readdirSync(join(dataDir, 'ledger')).filter((name) => name.startsWith('1.db.unreadable-'))).toHaveLength(1)
    outboxes.close()
  },
)

test('a directory that takes nothing fails the start and is named', () => {
  const file = join(folder, 'a-file')
  writeFileSync(file, '')
  const outboxes = createOutboxes({ dataDir: file, sync: 'normal', log: silentLog, clock: systemClock })
  expect(() => outboxes.openOwn()).toThrow(join(file, 'ledger'))
  expect(existsSync(join(file, 'ledger'))).toBe(false)
})
