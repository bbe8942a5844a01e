/**
 * Structured log: one JSON object per line, to any number of sinks. Lines of a few milliseconds are written together, so
 * that a busy node makes few system calls. Owns the shape of a line and the masking of secrets; `log-sinks.ts` owns
 * where they go.
 */
import { redactText, redactValue } from './redact.ts'

export type LogLevel = 'debug' | 'info' | 'warn' | 'error'
export type LogFields = Record<string, unknown>

export interface Log {
  debug(msg: string, fields?: LogFields): void
  info(msg: string, fields?: LogFields): void
  warn(msg: string, fields?: LogFields): void
  error(msg: string, fields?: LogFields): void
  /** A log whose lines all carry `fields`. */
  child(fields: LogFields): Log
}

/** Where lines go. `write` gets whole lines with their line ends and must not throw. */
export interface LogSink {
  write(lines: string): void
  /** Resolves when what was written is out, or cannot be. */
  close(): Promise<void>
}

/** A log with a life: `close` writes what is buffered and closes the sinks; call it before the process exits. */
export interface OpenLog extends Log {
  close(): Promise<void>
}

const RANK = { debug: 0, info: 1, warn: 2, error: 3 } as const satisfies Record<LogLevel, number>

/** Lines wait so long for others; past this size, and after an error, they are written at once. */
const GATHER_MS = 5
const BUFFER_CHARS = 64 * 1024

export function createLog(options: {
  readonly level: LogLevel
  readonly sinks: readonly LogSink[]
  readonly now?: () => number
  readonly fields?: LogFields
}): OpenLog {
  const { level, sinks, now = Date.now } = options
  let buffer = ''
  let scheduled = false

  const flush = (): void => {
    scheduled = false
    if (buffer === '') return
    const lines = buffer
    buffer = ''
    for (const sink of sinks) sink.write(lines)
  }
  const put = (lineLevel: LogLevel, msg: string, base: LogFields, fields: LogFields | undefined): void => {
    if (RANK[lineLevel] < RANK[level]) return
    buffer += `${formatLine(now(), lineLevel, msg, base, fields)}\n`
    if (lineLevel === 'error' || buffer.length > BUFFER_CHARS) flush()
    else if (!scheduled) {
      scheduled = true
      setTimeout(flush, GATHER_MS)
    }
  }
  /** @param base as they are written */
  const bind = (base: LogFields): Log => ({
    debug: (msg, fields) => put('debug', msg, base, fields),
    info: (msg, fields) => put('info', msg, base, fields),
    warn: (msg, fields) => put('warn', msg, base, fields),
    error: (msg, fields) => put('error', msg, base, fields),
    child: (fields) => bind(withFields({ ...base }, fields)),
  })
  return {
    ...bind(withFields({}, options.fields ?? {})),
    async close() {
      flush()
      await Promise.all(sinks.map((sink) => sink.close()))
    },
  }
}

/** Writes nowhere: for tests and for parts that may be used without a log. */
export const silentLog: Log = {
  debug: () => {},
  info: () => {},
  warn: () => {},
  error: () => {},
  child: () => silentLog,
}

/**
 * One line without its line end: `time`, `level`, `msg` first, then the fields. A field that cannot be written says so. A
 * busy node writes one for each call, so no object is made but the line's own.
 */
function formatLine(
  atMs: number,
  level: LogLevel,
  msg: string,
  base: LogFields,
  fields: LogFields | undefined,
): string {
  const line: LogFields = { time: new Date(atMs).toISOString(), level, msg: redactText(msg) }
  try {
    for (const name in base) line[name] = base[name]
    if (fields) withFields(line, fields)
    return JSON.stringify(line)
  } catch (error) {
    return JSON.stringify({ time: line['time'], level, msg: redactText(msg), unwritable: String(error) })
  }
}

function withFields(line: LogFields, fields: LogFields): LogFields {
  for (const name in fields) line[name] = redactValue(fields[name], name, 1)
  return line
}
