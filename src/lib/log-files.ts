/** The log files of a node as an operator sees them: what is there, and deleting the oldest. Those in use stay. */
import { readdir, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { LOG_FILE_NAME } from './log-sinks.ts'

export interface LogFileInfo {
  readonly name: string
  readonly bytes: number
  readonly writtenAtMs: number
}

export interface DeletedLogFiles {
  readonly count: number
  readonly bytes: number
  /** Names of those that could not be deleted. */
  readonly failed: readonly string[]
}

export interface LogFiles {
  /** Empty: no files are written. */
  readonly directory: string
  /** Newest first; nothing where there is no folder. */
  list(): Promise<readonly LogFileInfo[]>
  /** Deletes those that `isOld` says, given the file and how many are newer. */
  remove(isOld: (file: LogFileInfo, newer: number) => boolean): Promise<DeletedLogFiles>
}

/** The process that writes a file; a count follows where one process has written several. */
const WRITER = /-(\d+)(?:\.\d+)?\.log$/

export function createLogFiles(directory: string): LogFiles {
  const list = async (): Promise<readonly LogFileInfo[]> => {
    const names = directory === '' ? [] : await readdir(directory).catch(() => [])
    const files = await Promise.all(
      names
        .filter((name) => LOG_FILE_NAME.test(name))
        .map(async (name) => {
          // Another process may just have deleted it.
          const found = await stat(join(directory, name)).catch(() => undefined)
          return found ? [{ name, bytes: found.size, writtenAtMs: found.mtimeMs }] : []
        }),
    )
    return files.flat().sort((a, b) => b.writtenAtMs - a.writtenAtMs || (a.name < b.name ? 1 : -1))
  }
  return {
    directory,
    list,
    async remove(isOld) {
      const files = await list()
      const inUse = new Set(files.filter(isWritten).map(({ name }) => name))
      const old = files.filter((file, newer) => !inUse.has(file.name) && isOld(file, newer))
      const outcomes = await Promise.all(
        old.map(async (file) => ({ file, isGone: await isRemoved(join(directory, file.name)) })),
      )
      const gone = outcomes.filter(({ isGone }) => isGone).map(({ file }) => file)
      return {
        count: gone.length,
        bytes: gone.reduce((sum, { bytes }) => sum + bytes, 0),
        failed: outcomes.filter(({ isGone }) => !isGone).map(({ file }) => file.name),
      }
    },
  }
}

/** The newest of a process that is alive. */
function isWritten(file: LogFileInfo, at: number, newestFirst: readonly LogFileInfo[]): boolean {
  const writer = WRITER.exec(file.name)?.[1]
  const isNewest = newestFirst.findIndex(({ name }) => WRITER.exec(name)?.[1] === writer) === at
  return isNewest && isAlive(Number(writer))
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

const isRemoved = (path: string): Promise<boolean> =>
  rm(path, { force: true }).then(
    () => true,
    () => false,
  )
