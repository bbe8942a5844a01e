/**
 * Where log lines go: standard output, and files that rotate by size and day and are deleted by age and sum. Several
 * processes may share one folder: each writes files of its own name, and any of them deletes old ones. Nothing here
 * throws or waits: a log that cannot be written never stops a call.
 */
import {
  closeSync,
  existsSync,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  statSync,
  unlinkSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import type { LogSink } from './log.ts'

/** Writes to a pipe up to this size are never mixed with those of another process. */
const PIPE_BYTES = 4096
/** Text that a stuck reader of standard output may leave waiting in memory; further lines are dropped and counted. */
const MAX_WAITING_CHARS = 8 * 1024 * 1024
/** How long a close waits for a reader of standard output that does not read. */
const CLOSE_WAIT_MS = 1_000

/** @param stream standard output, or a stream like it */
export function createStreamSink(stream: NodeJS.WriteStream): LogSink {
  let waitingChars = 0
  let dropped = 0
  let isBroken = false
  let drained: PromiseWithResolvers<void> | undefined
  // Without a listener, a reader that went away (`headgate | head`) would end the process.
  stream.on('error', () => {
    isBroken = true
    drained?.resolve()
  })
  const send = (text: string): void => {
    waitingChars += text.length
    stream.write(text, () => {
      waitingChars -= text.length
      if (waitingChars === 0) drained?.resolve()
    })
  }
  return {
    write(lines) {
      if (isBroken) return
      if (waitingChars > MAX_WAITING_CHARS) {
        dropped++
        return
      }
      if (dropped > 0) {
        send(
          `${JSON.stringify({ time: new Date().toISOString(), level: 'warn', msg: 'log lines were dropped, since nobody read them', dropped })}\n`,
        )
        dropped = 0
      }
      for (const part of splitAtLines(lines, PIPE_BYTES)) send(part)
    },
    async close() {
      if (waitingChars === 0 || isBroken) return
      drained = Promise.withResolvers()
      await Promise.race([drained.promise, Bun.sleep(CLOSE_WAIT_MS)])
    },
  }
}

export interface LogFileOptions {
  readonly directory: string
  /** Tells processes apart in file names, such as `worker0`. Letters, digits. */
  readonly name: string
  readonly maxBytes: number
  /** Files last written longer ago are deleted; 0 keeps them. */
  readonly keepDays: number
  /** The oldest files past this sum are deleted; 0 keeps them. */
  readonly keepBytes: number
  readonly now?: () => number
}

/** Files of ours in a log folder. */
export const LOG_FILE_NAME = /^headgate-\d{8}-\d{6}-[\w.-]+\.log$/
const DAY_MS = 86_400_000
/** How often a file in use is looked for under its name: somebody may have deleted or moved it. */
const LOOK_MS = 10_000

/** @throws when the folder cannot be made or a file in it cannot be opened: a start should say so, not lose its logs */
export function openFileSink(options: LogFileOptions): LogSink {
  const { directory, name, maxBytes, keepDays, keepBytes, now = Date.now } = options
  mkdirSync(directory, { recursive: true })
  let file = openLogFile(directory, name, now())
  let lookedAtMs = now()
  let isFailing = false

  const rotate = (): void => {
    const next = openLogFile(directory, name, now())
    closeSync(file.descriptor)
    file = next
    deleteOldFiles(directory, { keepDays, keepBytes, nowMs: now(), inUse: file.path })
  }
  const mustRotate = (): boolean => {
    if (file.bytes >= maxBytes || file.day !== dayOf(now())) return true
    if (now() - lookedAtMs < LOOK_MS) return false
    lookedAtMs = now()
    return !existsSync(file.path)
  }
  deleteOldFiles(directory, { keepDays, keepBytes, nowMs: now(), inUse: file.path })

  return {
    write(lines) {
      try {
        if (mustRotate()) rotate()
        file.bytes += writeSync(file.descriptor, lines)
        isFailing = false
      } catch (error) {
        // Standard output still has the lines; it also gets the reason, once per outage.
        if (!isFailing) {
          process.stderr.write(
            `${JSON.stringify({ time: new Date(now()).toISOString(), level: 'error', msg: 'the log file cannot be written', path: file.path, error: String(error) })}\n`,
          )
        }
        isFailing = true
      }
    },
    async close() {
      closeSync(file.descriptor)
    },
  }
}

interface LogFile {
  readonly descriptor: number
  readonly path: string
  readonly day: string
  bytes: number
}

function openLogFile(directory: string, name: string, nowMs: number): LogFile {
  // The process id keeps two processes apart that start in one second, the count two files of one process.
  const stem = `headgate-${stampOf(nowMs)}-${name}-${process.pid}`
  let path = join(directory, `${stem}.log`)
  for (let count = 2; existsSync(path); count++) path = join(directory, `${stem}.${count}.log`)
  const descriptor = openSync(path, 'a', 0o640)
  return { descriptor, path, day: dayOf(nowMs), bytes: fstatSync(descriptor).size }
}

function deleteOldFiles(
  directory: string,
  rule: { readonly keepDays: number; readonly keepBytes: number; readonly nowMs: number; readonly inUse: string },
): void {
  try {
    const files = readdirSync(directory)
      .filter((file) => LOG_FILE_NAME.test(file) && join(directory, file) !== rule.inUse)
      .map((file) => ({
        path: join(directory, file),
        stat: statSync(join(directory, file), { throwIfNoEntry: false }),
      }))
      .flatMap(({ path, stat }) => (stat ? [{ path, bytes: stat.size, writtenAtMs: stat.mtimeMs }] : []))
      .sort((a, b) => b.writtenAtMs - a.writtenAtMs)
    let sumBytes = 0
    for (const file of files) {
      sumBytes += file.bytes
      const isOld = rule.keepDays > 0 && file.writtenAtMs < rule.nowMs - rule.keepDays * DAY_MS
      const isTooMuch = rule.keepBytes > 0 && sumBytes > rule.keepBytes
      if (isOld || isTooMuch) unlinkSync(file.path)
    }
  } catch {
    // Best effort: another process may delete the same files, and the next rotation tries again.
  }
}

/** Parts of at most `size` characters that end at line ends; a longer line is a part of its own. */
function splitAtLines(lines: string, size: number): string[] {
  const parts: string[] = []
  let start = 0
  while (lines.length - start > size) {
    const end = lines.lastIndexOf('\n', start + size - 1)
    const cut = end >= start ? end : lines.indexOf('\n', start)
    if (cut < 0) break
    parts.push(lines.slice(start, cut + 1))
    start = cut + 1
  }
  if (start < lines.length) parts.push(lines.slice(start))
  return parts
}

const pad = (value: number): string => String(value).padStart(2, '0')

function dayOf(ms: number): string {
  const at = new Date(ms)
  return `${at.getFullYear()}${pad(at.getMonth() + 1)}${pad(at.getDate())}`
}

function stampOf(ms: number): string {
  const at = new Date(ms)
  return `${dayOf(ms)}-${pad(at.getHours())}${pad(at.getMinutes())}${pad(at.getSeconds())}`
}
