/** Small reads and writes of whole files, with absence as a value. */
import { link, mkdir, open, readFile, rm } from 'node:fs/promises'
import { dirname } from 'node:path'

/** @returns the text, or undefined if there is no such file; any other failure is thrown */
export async function readTextIfPresent(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
}

/**
 * Reads a file, or makes it with `create()` if it is absent. Of several processes that do so at once one wins, and all
 * get its text; a crash leaves either no file or a whole one.
 * @param mode of a new file, such as 0o600
 */
export async function readOrCreate(path: string, create: () => string, mode: number): Promise<string> {
  const present = await readTextIfPresent(path)
  if (present !== undefined) return present
  await mkdir(dirname(path), { recursive: true })
  const draft = `${path}.${process.pid}.${crypto.randomUUID().slice(0, 8)}`
  try {
    const file = await open(draft, 'wx', mode)
    try {
      await file.writeFile(create())
      await file.sync()
    } finally {
      await file.close()
    }
    // A link fails if the name is taken, unlike a rename, which would replace what another process made.
    await link(draft, path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
  } finally {
    await rm(draft, { force: true })
  }
  return readFile(path, 'utf8')
}
