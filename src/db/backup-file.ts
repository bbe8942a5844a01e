/**
 * The file of a backup: written beside its name and put in place when it is whole; compressed if its name ends in `.gz`.
 * That of a server is SQL, one statement in a line, which `mysql` reads as well; its last line holds what was counted and a
 * checksum of all before it. That of SQLite is a database file.
 */

import { once } from 'node:events'
import { createReadStream, createWriteStream, type ReadStream, WriteStream } from 'node:fs'
import { open, rename, rm, stat, writeFile } from 'node:fs/promises'
import type { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGunzip, createGzip } from 'node:zlib'

/** What the first line of an SQL backup says. */
export interface BackupHead {
  readonly format: number
  /** `main`, or `log` for a database of call records alone */
  readonly part: 'main' | 'log'
  readonly version: string
  readonly server: string
  readonly createdAtMs: number
}

/** What the last line says. */
export interface BackupEnd {
  /** rows by table */
  readonly tables: Readonly<Record<string, number>>
  /** of the bytes before the last line, in hexadecimal */
  readonly sha256: string
}

export const BACKUP_FORMAT = 1
const HEAD = '-- Headgate backup '
const END = '-- Headgate end '
const SQLITE_MAGIC = 'SQLite format 3\0'
const CHUNK_CHARS = 256 * 1024
/** Backups hold keys and password hashes. */
const MODE = 0o600

const isCompressed = (path: string): boolean => path.endsWith('.gz')

/** @throws Error when there is such a file already */
export async function refuseExisting(path: string): Promise<void> {
  if (await stat(path).catch(() => undefined)) throw new Error(`${path} is there already: give another name`)
}

/** An empty file that others may not read, for SQLite to fill: one that it creates itself has the mode of any file. */
export const createPrivateFile = (path: string): Promise<void> => writeFile(path, '', { flag: 'wx', mode: MODE })

export interface BackupWriter {
  line(text: string): Promise<void>
  /** Writes the last line, makes the file durable and gives it its name. */
  finish(tables: Readonly<Record<string, number>>): Promise<void>
  /** Removes what was written. */
  abandon(): Promise<void>
}

export async function createBackupWriter(path: string, head: BackupHead): Promise<BackupWriter> {
  await refuseExisting(path)
  const unfinished = `${path}.unfinished`
  const file = createWriteStream(unfinished, { flags: 'w', mode: MODE })
  await once(file, 'open')
  const target = isCompressed(path) ? createGzip({ level: 6 }) : file
  const done: Promise<unknown> = target instanceof WriteStream ? once(file, 'close') : pipeline(target, file)
  let failure: unknown
  done.catch((error: unknown) => {
    failure = error
  })
  file.on('error', (error) => {
    failure = error
  })
  const hash = new Bun.CryptoHasher('sha256')
  let waiting = ''

  const flush = async (): Promise<void> => {
    if (failure) throw failure
    const bytes = Buffer.from(waiting)
    waiting = ''
    hash.update(bytes)
    if (!target.write(bytes)) await Promise.race([once(target, 'drain'), done])
    if (failure) throw failure
  }
  const line = async (text: string): Promise<void> => {
    waiting += `${text}\n`
    if (waiting.length >= CHUNK_CHARS) await flush()
  }
  await line(`${HEAD}${JSON.stringify(head)}`)
  return {
    line,
    async finish(tables) {
      await flush()
      const end: BackupEnd = { tables, sha256: hash.digest('hex') }
      target.end(`${END}${JSON.stringify(end)}\n`)
      await done
      await putInPlace(unfinished, path)
    },
    async abandon() {
      target.destroy()
      file.destroy()
      await rm(unfinished, { force: true })
    },
  }
}

async function putInPlace(unfinished: string, path: string): Promise<void> {
  const file = await open(unfinished, 'r')
  await file.sync()
  await file.close()
  await rename(unfinished, path)
}

/**
 * A database file that is complete becomes a backup.
 * @param from is moved, or compressed and removed
 */
export async function adoptFile(from: string, path: string): Promise<void> {
  if (!isCompressed(path)) return putInPlace(from, path)
  const unfinished = `${path}.unfinished`
  try {
    await pipeline(createReadStream(from), createGzip({ level: 6 }), createWriteStream(unfinished, { mode: MODE }))
    await putInPlace(unfinished, path)
  } finally {
    await rm(unfinished, { force: true })
    await rm(from, { force: true })
  }
}

export type BackupFile =
  | { readonly kind: 'sqlite'; readonly copyTo: (path: string) => Promise<void> }
  | {
      readonly kind: 'sql'
      readonly head: BackupHead
      readonly end: BackupEnd
      readonly statements: () => AsyncGenerator<string>
    }

/**
 * Looks at a whole backup, so that what is cut off or changed is refused before anything is done with it.
 * @throws Error that says in what it is no backup
 */
export async function openBackup(path: string): Promise<BackupFile> {
  const [beginning = Buffer.alloc(0)] = await firstChunk(path)
  if (beginning.subarray(0, SQLITE_MAGIC.length).toString('latin1') === SQLITE_MAGIC)
    return {
      kind: 'sqlite',
      copyTo: (to) => pipeline(read(path), createWriteStream(to, { flags: 'wx', mode: MODE })),
    }
  if (!beginning.toString('latin1').startsWith(HEAD)) throw new Error(`${path} is no backup of Headgate`)
  return { kind: 'sql', ...(await checkSql(path)), statements: () => statementsOf(path) }
}

async function firstChunk(path: string): Promise<readonly Buffer[]> {
  const stream = read(path)
  for await (const chunk of stream) {
    stream.destroy()
    return [chunk as Buffer]
  }
  return []
}

/** The bytes of a backup, unpacked. */
function read(path: string): Readable {
  const file: ReadStream = createReadStream(path, { highWaterMark: CHUNK_CHARS })
  if (!isCompressed(path)) return file
  const unpacked = createGunzip()
  // An error of the file ends the reading of what it feeds.
  file.on('error', (error) => unpacked.destroy(error))
  return file.pipe(unpacked)
}

/** Lines as bytes, without their ends. */
async function* linesOf(path: string): AsyncGenerator<Buffer> {
  let rest: Buffer[] = []
  for await (const chunk of read(path)) {
    let from = 0
    const bytes = chunk as Buffer
    for (let at = bytes.indexOf(10); at >= 0; at = bytes.indexOf(10, from)) {
      const piece = bytes.subarray(from, at)
      yield rest.length === 0 ? piece : Buffer.concat([...rest, piece])
      rest = []
      from = at + 1
    }
    if (from < bytes.length) rest.push(bytes.subarray(from))
  }
  if (rest.length > 0) yield Buffer.concat(rest)
}

async function checkSql(path: string): Promise<{ readonly head: BackupHead; readonly end: BackupEnd }> {
  const hash = new Bun.CryptoHasher('sha256')
  let head: BackupHead | undefined
  let end: BackupEnd | undefined
  try {
    for await (const line of linesOf(path)) {
      if (end) throw new Error('something follows its last line')
      head ??= JSON.parse(line.toString().slice(HEAD.length)) as BackupHead
      if (line.length < CHUNK_CHARS && line.toString('latin1', 0, END.length) === END) {
        end = JSON.parse(line.toString().slice(END.length)) as BackupEnd
      } else {
        hash.update(line)
        hash.update('\n')
      }
    }
  } catch (error) {
    throw new Error(`${path} cannot be read to its end: ${error instanceof Error ? error.message : String(error)}`)
  }
  if (!head || !end) throw new Error(`${path} is cut off: its last line is missing`)
  if (head.format !== BACKUP_FORMAT)
    throw new Error(`${path} has the format ${head.format}, which this version cannot read`)
  if (hash.digest('hex') !== end.sha256) throw new Error(`${path} was changed or damaged: its checksum does not match`)
  return { head, end }
}

async function* statementsOf(path: string): AsyncGenerator<string> {
  for await (const line of linesOf(path)) {
    const text = line.toString()
    if (text !== '' && !text.startsWith('-- ')) yield text
  }
}
