/**
 * An exclusive lock on a folder, held by a process until it ends in whatever way. It is SQLite's own lock on a small file:
 * the kernel drops it when the holder dies, so a `kill -9` leaves nothing to clean up.
 *
 * The holder must not open that file in any other way: closing any descriptor of it would silently drop the lock.
 */
import { Database } from 'bun:sqlite'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'

export const LOCK_FILE = 'headgate.lock'

/** A collected object would close its file and drop the lock, whoever forgot it: so locks are kept here until released. */
const held = new Set<Database>()

export interface DirectoryLock {
  release(): void
}

/**
 * @param waitMs how long another holder is waited for, for one that is just ending
 * @returns undefined if another process holds the folder
 * @throws if the folder cannot be made or written
 */
export function lockDirectory(directory: string, waitMs: number): DirectoryLock | undefined {
  mkdirSync(directory, { recursive: true })
  const file = new Database(join(directory, LOCK_FILE), { create: true, readwrite: true })
  try {
    file.run(`pragma busy_timeout = ${Math.floor(waitMs)}`)
    file.run('begin exclusive')
  } catch (error) {
    file.close()
    if ((error as { code?: string }).code === 'SQLITE_BUSY') return undefined
    throw error
  }
  held.add(file)
  return {
    release() {
      held.delete(file)
      file.close()
    },
  }
}
