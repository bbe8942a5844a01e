/**
 * The outboxes in a data directory: takes one for this worker, and adopts those that nobody holds any more (of a worker
 * that ended, or of more workers than there are now). The lock on a file is what says that somebody holds it.
 */
import { mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import type { Clock } from '../../lib/clock.ts'
import type { Log } from '../../lib/log.ts'
import type { Checkpoint } from '../../lib/wal.ts'
import { keepOutboxAside, type Outbox, type OutboxSync, openOutbox } from './outbox.ts'

export type Outboxes = ReturnType<typeof createOutboxes>

export function createOutboxes(deps: {
  readonly dataDir: string
  readonly sync: OutboxSync
  readonly log: Log
  readonly clock: Clock
  /** Nobody else has the database: it goes back with this disk or not at all, and a copy of the directory is nobody's. */
  readonly isAlone?: boolean
  readonly checkpoint?: Checkpoint | undefined
  /** a limit to the size of a file, for tests of a full disk */
  readonly maxPages?: number
}) {
  const { sync, log, clock, isAlone = false, checkpoint, maxPages } = deps
  const directory = join(deps.dataDir, 'ledger')
  let own: Outbox | undefined
  const adopted = new Map<string, Outbox>()

  const open = (path: string): Outbox | undefined => {
    const options = {
      path,
      sync,
      checkpoint,
      ...(isAlone ? {} : { isKept: true, file: () => fileOf(path) }),
      ...(maxPages === undefined ? {} : { maxPages }),
    }
    const opened = openOutbox(options)
    if (opened.kind === 'open') return opened.outbox
    if (opened.kind === 'locked') return undefined
    const aside = keepOutboxAside(path, clock.now())
    log.error('an outbox cannot be read and was kept aside: charges in it are not applied', {
      aside,
      error: opened.error,
    })
    const fresh = openOutbox(options)
    return fresh.kind === 'open' ? fresh.outbox : undefined
  }

  const existing = (): string[] =>
    readdirSync(directory)
      .filter((name) => /^\d+\.db$/.test(name))
      .sort((a, b) => Number.parseInt(a, 10) - Number.parseInt(b, 10))
      .map((name) => join(directory, name))

  return {
    directory,
    /** Takes the first outbox that can be locked. @throws Error that names the directory: full, or not writable */
    openOwn(): Outbox {
      try {
        mkdirSync(directory, { recursive: true, mode: 0o700 })
        for (let number = 1; !own; number++) own = open(join(directory, `${number}.db`))
        return own
      } catch (error) {
        throw new Error(`the ledger's directory ${directory} is full or not writable: ${String(error)}`, {
          cause: error,
        })
      }
    },
    /**
     * Takes over the outboxes that nobody holds and that have something left in them.
     * @param check looks at one before anybody flushes it; one for which it throws stays closed, until the next time
     * @returns the new ones
     */
    adopt(check: (outbox: Outbox) => void = () => {}): readonly Outbox[] {
      const news: Outbox[] = []
      for (const path of existing()) {
        if (path === own?.path || adopted.has(path)) continue
        let outbox: Outbox | undefined
        try {
          outbox = open(path)
          if (outbox) check(outbox)
        } catch (error) {
          log.error('an outbox could not be opened', { path, error })
          outbox?.close()
          outbox = undefined
        }
        if (!outbox) continue
        if (outbox.tenures().length === 0) outbox.close()
        else {
          adopted.set(path, outbox)
          news.push(outbox)
        }
      }
      return news
    },
    adopted: (): readonly Outbox[] => [...adopted.values()],
    all: (): readonly Outbox[] => (own ? [own, ...adopted.values()] : []),
    /** Lets go of an adopted outbox that is empty. */
    release(outbox: Outbox): void {
      if (!adopted.delete(outbox.path)) return
      outbox.close()
    },
    close(): void {
      for (const outbox of this.all()) outbox.close()
      adopted.clear()
      own = undefined
    },
  }
}

const BOOT_ID = '/proc/sys/kernel/random/boot_id'

/** Names a file among all files, and the kernel that guards its locks. Where there is no such name, no two times are alike. */
function fileOf(path: string): string {
  const { dev, ino } = statSync(path)
  let bootId: string
  try {
    bootId = readFileSync(BOOT_ID, 'utf8').trim()
  } catch {
    bootId = crypto.randomUUID()
  }
  return `${dev}:${ino}:${bootId}`
}
