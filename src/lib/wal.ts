/**
 * The write-ahead log of an SQLite file: brings it to the disk and keeps it short, and no call waits for the disk. SQLite's
 * own checkpoint waits for it on the event loop, several times: at thousands of calls a second that stopped them all for 10
 * to 90 ms. So a thread syncs the log, and another process copies it back into the file; passive, it stops nobody.
 *
 * Of the three files only the log may be opened beside SQLite: it is the one that bears no locks.
 */
import { Database } from 'bun:sqlite'
import { closeSync, fdatasync, fdatasyncSync, openSync, statSync } from 'node:fs'
import { promisify } from 'node:util'

const syncInThread = promisify(fdatasync)

/** Names a file that is open, so that nobody takes one for it that was put in its place. */
export interface OpenFile {
  readonly path: string
  readonly inode: number
}
/** Has a file's log copied into it. @returns whether that was done well and in time; never rejects */
export type Checkpoint = (file: OpenFile, withinMs: number) => Promise<boolean>

const WITHIN_MS = 10_000
/** Of one for which commits wait. */
const QUIET_WITHIN_MS = 500
/** After a checkpoint that failed. */
const RETRY_MS = 5_000

/**
 * Copies what is committed from the log into the file, and syncs both. For any process that may open the file.
 * @throws SQLiteError; Error when the path is that of another file by now
 */
export function checkpointFile({ path, inode }: OpenFile): void {
  if (statSync(path).ino !== inode) throw new Error(`${path} is no longer the file that is written`)
  const db = new Database(path, { create: false, readwrite: true })
  try {
    db.run('pragma busy_timeout=1000')
    db.run('pragma wal_checkpoint(passive)')
  } finally {
    db.close()
  }
}

/**
 * @param options.db has the file open in WAL mode, and is in no transaction when something of this is called
 * @param options.maxFrames a log longer than this is copied back, in pages
 * @param options.checkpoint of another process; if not given, this connection does it itself, and waits for the disk
 * @param options.quietly does something while nobody commits: who wants to, waits. Only a copy that meets no new commit
 * comes to the end of the log, and only then does SQLite begin the log anew
 */
export function createWal(options: {
  readonly db: Database
  readonly maxFrames: number
  readonly checkpoint?: Checkpoint | undefined
  readonly quietly: (work: () => Promise<unknown>) => Promise<unknown>
}) {
  const { db, maxFrames, quietly } = options
  // As SQLite names it: the log lies beside the file itself, not beside a link to it.
  const path = String(db.query<{ file: string }, []>('pragma database_list').get()?.file)
  const file: OpenFile = { path, inode: statSync(path).ino }
  let isOpen = true
  let isShortening = false
  let syncs = 0
  let descriptor: number | undefined
  const descriptorOf = (): number => {
    descriptor ??= openSync(`${path}-wal`, 'r+')
    return descriptor
  }

  /** Of the log; -1 where there is none. An SQLite that does not know `noop` takes it for `passive`: slow, not wrong. */
  const frames = (): number => Number(db.query<unknown, []>('pragma wal_checkpoint(noop)').values()[0]?.[1])
  const checkpointHere = async (): Promise<void> => {
    if (isOpen) db.run('pragma wal_checkpoint(passive)')
  }

  /** Twice: the first one leaves so little that those who wait during the second do not wait long. */
  const shorten = async (checkpoint: Checkpoint): Promise<void> => {
    isShortening = true
    if (await checkpoint(file, WITHIN_MS)) await quietly(() => checkpoint(file, QUIET_WITHIN_MS))
    else await Bun.sleep(RETRY_MS)
    isShortening = false
  }
  const letGo = (): void => {
    if (isOpen || syncs > 0 || descriptor === undefined) return
    closeSync(descriptor)
    descriptor = undefined
  }

  return {
    /** Resolves when what was committed before survives a power cut. @throws Error of the file system, SQLiteError */
    async sync(): Promise<void> {
      if (!isOpen || frames() < 0) return
      syncs++
      try {
        await syncInThread(descriptorOf())
      } finally {
        syncs--
        letGo()
      }
      if (!isOpen || isShortening || frames() <= maxFrames) return
      if (options.checkpoint) void shorten(options.checkpoint)
      else await quietly(checkpointHere)
    },
    /** The same at once, for a start. */
    syncNow(): void {
      fdatasyncSync(descriptorOf())
    },
    /** Before the file itself is closed. */
    close(): void {
      isOpen = false
      letGo()
    },
  }
}
