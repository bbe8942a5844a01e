/**
 * The local journal of one worker: an SQLite file that holds every charge from the moment a call is settled until the
 * databases have it, and in a cluster for a while longer: a database may go back to what it was before. Owns the file, its
 * lock and its numbering; knows nothing of what a charge means.
 *
 * Only SQLite may open the file: any other open and close of it in this process, by `fs` or `Bun.file`, drops its lock
 * silently (POSIX locks belong to the process, not to the descriptor). `stat` and `rename` are harmless.
 */
import { Database, SQLiteError } from 'bun:sqlite'
import { existsSync, renameSync } from 'node:fs'
import { type Checkpoint, createWal } from '../../lib/wal.ts'

/** Number and request id of the last charge of an instance that a database has. */
export interface Mark {
  readonly seq: number
  readonly last: string
}
export type Part = 'main' | 'log'

/** One tenure of a worker whose charges are in this file. */
export interface Tenure {
  readonly instanceId: string
  /** Charge `n` of this instance is the row `base + n`. */
  readonly base: number
  readonly main: Mark
  readonly log: Mark
  /** From another file than this, of which this is a copy: whoever charges there may live. */
  readonly isForeign: boolean
}

/** What is written per charge. Two texts, so that the second goes to its column without being parsed or escaped again. */
export interface Entry {
  readonly body: string
  readonly other: string
  /** What the texts were made of: handed back in place of `body` while this process remembers, to save the reading. */
  readonly memo?: unknown
}
export interface JournalledEntry extends Entry {
  readonly seq: number
  /** Length of both texts. */
  readonly chars: number
}

export type OutboxSync = 'normal' | 'full'

export type OpenedOutbox =
  | { readonly kind: 'open'; readonly outbox: Outbox }
  | { readonly kind: 'locked' }
  | { readonly kind: 'unreadable'; readonly error: unknown }

export type Outbox = ReturnType<typeof createOutbox>

interface TenureRow {
  readonly instance_id: string
  readonly base: number
  readonly main_seq: number
  readonly main_last: string
  readonly log_seq: number
  readonly log_last: string
  readonly is_foreign: number
}

/** The second column set aside for charges that fit no database: `part` says which one had not taken them. */
const SCHEMA = `
create table if not exists meta (key text primary key, value text not null) without rowid;
create table if not exists instances (
  instance_id text primary key, base integer not null,
  main_seq integer not null default 0, main_last text not null default '',
  log_seq integer not null default 0, log_last text not null default '',
  is_foreign integer not null default 0) without rowid;
create table if not exists charges (id integer primary key, body text not null, other text not null);
create table if not exists set_aside (
  id integer primary key, instance_id text not null, part text not null, seq integer not null,
  body text not null, other text not null, reason text not null, at_ms integer not null);
create table if not exists applied (
  instance_id text not null, seq integer not null, at_ms integer not null,
  primary key (instance_id, seq)) without rowid;
`
/** What the table `instances` of earlier releases lacks. */
const ADD_FOREIGN = 'alter table instances add column is_foreign integer not null default 0'
/** Which file this is, as its holder saw it last: key in `meta`. */
const FILE = 'file'
/** So many charges are removed at a time: calls have their turn in between. */
const REMOVE_AT_ONCE = 500

/**
 * A write-ahead log longer than this begins anew, pages; and gives back what it had of the disk above this, bytes. Charges
 * wait when that happens, for some 10 ms, with a busy disk once for 140: so it should be seldom, but a start reads it all.
 */
const MAX_FRAMES = 8_000
const KEPT_WAL_BYTES = 33_554_432
/** How long a commit waits for another process, which has the log for a moment when it opens it, ms. */
const BUSY_TIMEOUT_MS = 1_000

/** Charges kept in memory beside the file, until both databases have them: at most so many, and so much text. */
const RECENT = 4_096
const RECENT_CHARS = 8_000_000

const UNREADABLE = new Set(['SQLITE_NOTADB', 'SQLITE_CORRUPT', 'SQLITE_CORRUPT_VTAB', 'SQLITE_FORMAT', 'SQLITE_ERROR'])
const codeOf = (error: unknown): string => (error instanceof SQLiteError ? (error.code ?? '') : '')

/**
 * Opens and locks an outbox, creating it when absent. The lock lives until `close` or the end of the process.
 * @param options.isKept charges that the databases have stay until `remove`
 * @param options.file names the file itself and the kernel that guards its lock: where it is not as noted before, the
 * instances in it are of the file that this one is a copy of. Absent: there can be no copy.
 * @param options.checkpoint another process's, which may then open the file too; only this process does if not given
 * @param options.maxPages a limit to the file's size, for tests of a full disk
 * @returns `locked` when another process (or another part of this one) has it; `unreadable` when it is no outbox
 * @throws SQLiteError when the disk is full or not writable
 */
export function openOutbox(options: {
  readonly path: string
  readonly sync: OutboxSync
  readonly isKept?: boolean
  readonly file?: () => string
  readonly checkpoint?: Checkpoint | undefined
  readonly maxPages?: number
}): OpenedOutbox {
  const isNew = !existsSync(options.path)
  const db = new Database(options.path, { create: true })
  try {
    for (const pragma of [
      'busy_timeout=0',
      `synchronous=${options.sync}`,
      // `sync` sees to it, so that no call pays for it.
      'wal_autocheckpoint=0',
      `journal_size_limit=${KEPT_WAL_BYTES}`,
    ])
      db.run(`pragma ${pragma}`)
    if (options.checkpoint) lockShared(db)
    else lockAlone(db)
    if (!isNew) {
      const check = db.query<{ quick_check: string }, []>('pragma quick_check(1)').get()
      if (check?.quick_check !== 'ok') throw new SyntaxError(`the outbox is damaged: ${check?.quick_check}`)
    }
    db.run(SCHEMA)
    const columns = db.query<{ name: string }, []>("select name from pragma_table_info('instances')").all()
    if (!columns.some(({ name }) => name === 'is_foreign')) db.run(ADD_FOREIGN)
    if (options.file) noteFile(db, options.file())
    if (options.maxPages !== undefined) db.run(`pragma max_page_count=${options.maxPages}`)
    const outbox = createOutbox(db, options)
    outbox.probe()
    return { kind: 'open', outbox }
  } catch (error) {
    db.close()
    const code = codeOf(error)
    // A file system without shared memory: nobody else can open the file there.
    if (options.checkpoint && code.startsWith('SQLITE_IOERR_SHM'))
      return openOutbox({ ...options, checkpoint: undefined })
    if (code.startsWith('SQLITE_BUSY') || code.startsWith('SQLITE_LOCKED')) return { kind: 'locked' }
    if (error instanceof SyntaxError || UNREADABLE.has(code)) return { kind: 'unreadable', error }
    throw error
  }
}

/** Nobody else may open the file. Exclusive before the first access in WAL mode: so there is no shared memory. */
function lockAlone(db: Database): void {
  for (const pragma of ['locking_mode=exclusive', 'journal_mode=wal']) db.run(`pragma ${pragma}`)
  db.run('begin exclusive')
  db.run('commit')
}

/**
 * Others may open the file, and yet it has one holder. Each connection keeps a shared lock while it is open, and whoever
 * wants to be the holder needs the exclusive one for a moment: it has it only if nobody else is there, of this release or
 * of one that locks alone. It falls back to the shared one, without a gap, with the first write.
 */
function lockShared(db: Database): void {
  // The access in between makes the shared memory; without it the mode could not go back to normal.
  for (const pragma of ['journal_mode=wal', 'schema_version', 'locking_mode=exclusive']) db.run(`pragma ${pragma}`)
  db.run('begin exclusive')
  db.run('commit')
  for (const pragma of ['locking_mode=normal', `busy_timeout=${BUSY_TIMEOUT_MS}`]) db.run(`pragma ${pragma}`)
}

/** The lock proves the death of those before us only on the file that they locked. Without a note it is of an earlier release. */
function noteFile(db: Database, file: string): void {
  const noted = db.query<{ value: string }, [string]>('select value from meta where key = ?').get(FILE)?.value
  if (noted === file) return
  db.transaction(() => {
    if (noted !== undefined) db.run('update instances set is_foreign = 1')
    db.query('insert into meta (key, value) values (?, ?) on conflict (key) do update set value = excluded.value').run(
      FILE,
      file,
    )
  })()
}

/** Moves an outbox that cannot be read out of the way, with its write-ahead log. @returns its new path */
export function keepOutboxAside(path: string, atMs: number): string {
  const aside = `${path}.unreadable-${atMs}`
  for (const suffix of ['', '-wal', '-shm', '-journal'])
    if (existsSync(path + suffix)) renameSync(path + suffix, aside + suffix)
  return aside
}

function createOutbox(
  db: Database,
  options: { readonly path: string; readonly isKept?: boolean; readonly checkpoint?: Checkpoint | undefined },
) {
  const { path, isKept = false, checkpoint } = options
  const insert = db.query<unknown, [number, string, string]>('insert into charges (id, body, other) values (?, ?, ?)')
  const select = db.query<{ id: number; body: string; other: string }, [number, number, number]>(
    'select id, body, other from charges where id > ? and id <= ? order by id limit ?',
  )
  const writeMarks = db.query<unknown, [number, string, number, string, string]>(
    'update instances set main_seq = ?, main_last = ?, log_seq = ?, log_last = ? where instance_id = ?',
  )
  const removeCharges = db.query<unknown, [number, number]>('delete from charges where id > ? and id <= ?')
  const noteApplied = db.query<unknown, [string, number, number]>(
    'insert or ignore into applied (instance_id, seq, at_ms) values (?, ?, ?)',
  )
  const unnoteAfter = db.query<unknown, [string, number]>('delete from applied where instance_id = ? and seq > ?')
  const unnoteUpTo = db.query<unknown, [string, number]>('delete from applied where instance_id = ? and seq <= ?')
  const selectApplied = db.query<{ seq: number | null }, [string, number]>(
    'select max(seq) as seq from applied where instance_id = ? and at_ms <= ?',
  )
  const selectFirst = db.query<{ id: number | null }, [number, number]>(
    'select min(id) as id from charges where id > ? and id <= ?',
  )
  const begin = db.query('begin immediate')
  const commit = db.query('commit')
  const setMeta = db.query<unknown, [string, string]>(
    'insert into meta (key, value) values (?, ?) on conflict (key) do update set value = excluded.value',
  )

  const tenures: Tenure[] = db
    .query<TenureRow, []>('select * from instances order by base, instance_id')
    .all()
    .map((row) => ({
      instanceId: row.instance_id,
      base: row.base,
      main: { seq: row.main_seq, last: row.main_last },
      log: { seq: row.log_seq, last: row.log_last },
      isForeign: row.is_foreign !== 0,
    }))
  const maxId = db.query<{ id: number | null }, []>('select max(id) as id from charges').get()?.id ?? 0
  /** Row id of the last charge written, or that any mark names. */
  let lastId = Math.max(maxId, ...tenures.map((t) => t.base + Math.max(t.main.seq, t.log.seq)), 0)
  let current: Tenure | undefined
  /** Instances with marks that only memory knows. */
  const unsettled = new Set<string>()
  let waiting: Entry[] = []
  let batch: PromiseWithResolvers<void> | undefined
  let hasNews = false
  let writable = true
  let isOpen = true
  let isHeld = false
  let onCommitted: () => void = () => {}
  /** The last charges of the current instance, without a gap. */
  const recent: JournalledEntry[] = []
  let recentChars = 0

  const remember = (instance: Tenure, firstId: number, entries: readonly Entry[]): void => {
    let seq = firstId - instance.base
    for (const { body, other, memo } of entries) {
      const chars = body.length + other.length
      recent.push({ seq: seq++, body: memo === undefined ? body : '', other, memo, chars })
      recentChars += chars
    }
    if (recent.length > 2 * RECENT) dropRecent(recent.length - RECENT)
    while (recentChars > RECENT_CHARS && recent.length > 0) dropRecent((recent.length + 1) >> 1)
  }
  const dropRecent = (count: number): void => {
    for (let i = 0; i < count && i < recent.length; i++) recentChars -= recent[i]!.chars
    // In place: an array that was left behind would keep them all, once it is old.
    recent.splice(0, count)
  }

  const transaction = (work: () => void): void => {
    try {
      begin.run()
      work()
      commit.run()
      writable = true
      hasNews = true
    } catch (error) {
      writable = false
      // A full disk rolls back by itself; anything else is rolled back here.
      if (db.inTransaction) db.run('rollback')
      throw error
    }
  }

  /** The settles of one tick share one commit, and one promise. */
  const commitBatch = (): void => {
    const entries = waiting
    const done = batch
    waiting = []
    batch = undefined
    if (!done) return
    try {
      if (!current) throw new Error('the outbox has no instance yet')
      let id = lastId
      const [only] = entries
      if (entries.length === 1 && only) {
        insert.run(++id, only.body, only.other)
        writable = true
        hasNews = true
      } else
        transaction(() => {
          for (const entry of entries) insert.run(++id, entry.body, entry.other)
        })
      remember(current, lastId + 1, entries)
      lastId = id
      done.resolve()
    } catch (error) {
      writable = false
      done.reject(error)
      return
    }
    onCommitted()
  }

  const wal = createWal({
    db,
    maxFrames: MAX_FRAMES,
    checkpoint,
    async quietly(work) {
      isHeld = true
      try {
        await work()
      } finally {
        isHeld = false
        commitBatch()
      }
    },
  })

  const find = (instanceId: string): Tenure | undefined => tenures.find((t) => t.instanceId === instanceId)
  const replace = (tenure: Tenure): void => {
    const at = tenures.findIndex((t) => t.instanceId === tenure.instanceId)
    if (at >= 0) tenures[at] = tenure
    if (current?.instanceId === tenure.instanceId) current = tenure
  }
  /** Last row id of an instance: its row ids end before the next one's base, which no charge has. */
  const endOf = (tenure: Tenure): number => {
    const next = tenures.find((t) => t.base > tenure.base)
    return next ? next.base - 1 : lastId
  }

  /** Number of the first charge of an instance that is still in the file; beyond the last one if there is none. */
  const firstKept = (tenure: Tenure): number => {
    const end = endOf(tenure)
    return (selectFirst.get(tenure.base, end)?.id ?? end + 1) - tenure.base
  }

  return {
    path,
    /** The instances with something in this file, oldest first, the current one included. */
    tenures: (): readonly Tenure[] => [...tenures],
    current: (): Tenure | undefined => current,

    /** Charges from now on belong to `instanceId` and count from 1. @throws SQLiteError disk full or not writable */
    begin(instanceId: string): void {
      if (waiting.length > 0) commitBatch()
      const base = lastId + 1
      transaction(() => {
        db.query('insert into instances (instance_id, base) values (?, ?)').run(instanceId, base)
      })
      lastId = base
      dropRecent(recent.length)
      current = { instanceId, base, main: { seq: 0, last: '' }, log: { seq: 0, last: '' }, isForeign: false }
      tenures.push(current)
      // On the disk before the database hears of the instance: after a power cut somebody must know whose rows these are.
      wal.syncNow()
    },

    /** The current instance takes no more charges here. */
    end(): void {
      commitBatch()
      current = undefined
    },
    /** @returns when the charge is committed. @throws SQLiteError when it could not be: then it is not there */
    append(entry: Entry): Promise<void> {
      if (!isOpen) return Promise.reject(new Error('the outbox is closed'))
      waiting.push(entry)
      if (!batch) {
        batch = Promise.withResolvers()
        setImmediate(() => {
          if (!isHeld) commitBatch()
        })
      }
      return batch.promise
    },
    /** Commits what waits for the end of this tick. */
    commit: commitBatch,
    /** Called after each commit of charges. */
    onCommitted(listener: () => void): void {
      onCommitted = listener
    },

    /** Number of the last charge of an instance. */
    lastSeq(instanceId: string): number {
      const tenure = find(instanceId)
      return tenure ? Math.max(endOf(tenure) - tenure.base, tenure.main.seq, tenure.log.seq) : 0
    },
    /** The charges after number `after`, in order: at most `limit`, and at least one, but no more than fit into `maxChars`. */
    read(instanceId: string, after: number, limit: number, maxChars = Infinity): readonly JournalledEntry[] {
      const tenure = find(instanceId)
      if (!tenure) return []
      const first = recent[0]
      if (tenure === current && first && first.seq <= after + 1) {
        const from = after + 1 - first.seq
        return upTo(maxChars, recent.slice(from, from + limit))
      }
      return upTo(maxChars, entriesOf(tenure, select.iterate(tenure.base + after, endOf(tenure), limit)))
    },

    /**
     * Notes in memory how far a database has an instance's charges; less than before, where it has gone back. The file hears
     * of it by `settle`; after a restart that came before, the database says it.
     */
    mark(instanceId: string, part: Part, mark: Mark): void {
      const before = find(instanceId)
      if (!before) return
      const after: Tenure = { ...before, [part]: mark }
      replace(after)
      unsettled.add(instanceId)
      const both = Math.min(after.main.seq, after.log.seq)
      if (after === current && recent[0] && both >= recent[0].seq) dropRecent(both + 1 - recent[0].seq)
    },
    /**
     * Writes the marks down: only of what survives a power cut in the databases. Charges that both have leave, unless they
     * are kept; then it is noted since when they were there.
     * @param marked the marks as they were before the databases were synced: `tenures()` of then
     * @returns whether more charges are to leave: by the next call, so that those who wait for the file have their turn
     * @throws SQLiteError; it is tried again by the next call
     */
    settle(marked: readonly Tenure[], atMs: number): boolean {
      const some = marked.filter(({ instanceId, main, log }) => {
        const now = find(instanceId)
        // A database that has gone back meanwhile is no longer where it was.
        return unsettled.has(instanceId) && now && now.main.seq >= main.seq && now.log.seq >= log.seq
      })
      if (some.length === 0) return false
      const unfinished = new Set<string>()
      transaction(() => {
        for (const tenure of some) {
          const { instanceId, base, main, log } = tenure
          writeMarks.run(main.seq, main.last, log.seq, log.last, instanceId)
          const both = Math.min(main.seq, log.seq)
          if (!isKept) {
            const upTo = Math.min(both, firstKept(tenure) + REMOVE_AT_ONCE - 1)
            removeCharges.run(base, base + upTo)
            if (upTo < both) unfinished.add(instanceId)
          } else {
            unnoteAfter.run(instanceId, both)
            if (both > 0) noteApplied.run(instanceId, both, atMs)
          }
        }
      })
      for (const { instanceId, main, log } of some) {
        const now = find(instanceId)
        const isSettled = now?.main.seq === main.seq && now.log.seq === log.seq && !unfinished.has(instanceId)
        if (isSettled) unsettled.delete(instanceId)
      }
      return unfinished.size > 0
    },
    /** Number of the last charge that both databases have had since `atMs`, as far as is noted; 0: of none is it known. */
    appliedBy: (instanceId: string, atMs: number): number => selectApplied.get(instanceId, atMs)?.seq ?? 0,
    firstKept(instanceId: string): number {
      const tenure = find(instanceId)
      return tenure ? firstKept(tenure) : 1
    },
    /**
     * Removes some charges that both databases have, the oldest first.
     * @param upTo number of the last one that may go
     * @returns how many went; 0: there are none
     * @throws SQLiteError
     */
    remove(instanceId: string, upTo: number): number {
      const tenure = find(instanceId)
      if (!tenure) return 0
      const first = firstKept(tenure)
      const last = Math.min(upTo, tenure.main.seq, tenure.log.seq, first + REMOVE_AT_ONCE - 1)
      if (last < first) return 0
      let count = 0
      transaction(() => {
        count = removeCharges.run(tenure.base, tenure.base + last).changes
        unnoteUpTo.run(instanceId, last)
      })
      return count
    },
    /** Bytes of the file that are in use. */
    usedBytes: (): number =>
      db
        .query<{ bytes: number }, []>(
          'select (page_count - freelist_count) * page_size as bytes from pragma_page_count, pragma_freelist_count, pragma_page_size',
        )
        .get()?.bytes ?? 0,
    /**
     * Keeps charges that a database does not take where nobody applies them: those after number `after`. `main`: they are
     * neither charged nor logged. `log`: they are charged and not logged. @returns how many
     */
    setAside(instanceId: string, part: Part, after: number, reason: string, atMs: number): number {
      const tenure = find(instanceId)
      if (!tenure) return 0
      const last = Math.max(part === 'main' ? endOf(tenure) - tenure.base : tenure.main.seq, after)
      let count = 0
      transaction(() => {
        const range = [tenure.base + after, tenure.base + last] as const
        count = db
          .query(
            `insert into set_aside (instance_id, part, seq, body, other, reason, at_ms)
             select ?, ?, id - ?, body, other, ?, ? from charges where id > ? and id <= ?`,
          )
          .run(instanceId, part, tenure.base, reason, atMs, ...range).changes
        if (part === 'main') removeCharges.run(...range)
        db.query(`update instances set ${part}_seq = ?, ${part}_last = '' where instance_id = ?`).run(last, instanceId)
      })
      if (tenure === current) dropRecent(recent.length)
      this.mark(instanceId, part, { seq: last, last: '' })
      return count
    },
    /**
     * Forgets an instance whose charges are applied and whose rows are returned, unless an older one is still here: where
     * the older one's charges end is known by where this one begins.
     * @throws SQLiteError
     */
    forget(instanceId: string): void {
      const tenure = find(instanceId)
      if (!tenure || tenure === current || tenure !== tenures[0]) return
      const end = endOf(tenure)
      transaction(() => {
        removeCharges.run(tenure.base, end)
        unnoteAfter.run(instanceId, -1)
        db.query('delete from instances where instance_id = ?').run(instanceId)
      })
      tenures.splice(tenures.indexOf(tenure), 1)
      unsettled.delete(instanceId)
    },

    meta: (key: string): string | undefined =>
      db.query<{ value: string }, [string]>('select value from meta where key = ?').get(key)?.value,
    setMeta(key: string, value: string): void {
      transaction(() => void setMeta.run(key, value))
    },
    /** How many charges were set aside, ever. */
    setAsideCount: (): number => db.query<{ n: number }, []>('select count(*) as n from set_aside').get()?.n ?? 0,

    /** Are there marks that only memory knows? */
    isUnsettled: (): boolean => unsettled.size > 0,
    isWritable: (): boolean => writable,
    /** Writes something: throws when the disk is full or not writable, and clears the mark when it is well again. */
    probe(): void {
      transaction(() => void setMeta.run('probe', 'x'.repeat(8192)))
    },
    /** What was written before survives a power cut when this resolves. @throws Error, SQLiteError */
    async sync(): Promise<void> {
      if (!hasNews) return
      hasNews = false
      try {
        await wal.sync()
      } catch (error) {
        hasNews = true
        throw error
      }
    },
    close(): void {
      if (!isOpen) return
      commitBatch()
      isOpen = false
      wal.close()
      db.close()
    },
  }
}

function* entriesOf(
  tenure: Tenure,
  rows: Iterable<{ readonly id: number; readonly body: string; readonly other: string }>,
): Generator<JournalledEntry> {
  for (const { id, body, other } of rows)
    yield { seq: id - tenure.base, body, other, chars: body.length + other.length }
}

/** The first entries, at least one, that together have at most `maxChars`. */
function upTo(maxChars: number, entries: Iterable<JournalledEntry>): readonly JournalledEntry[] {
  const some: JournalledEntry[] = []
  let chars = 0
  for (const entry of entries) {
    chars += entry.chars
    if (some.length > 0 && chars > maxChars) break
    some.push(entry)
  }
  return some
}
