/** A folder belongs to one process, its file system is known, and what is generated in it is generated once. */
import { afterAll, beforeAll, expect, test } from 'bun:test'
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { lockDirectory } from '../../src/lib/dir-lock.ts'
import { readOrCreate } from '../../src/lib/files.ts'
import { findMount, isContainerLayer, isDoubtfulMount, isNetworkMount } from '../../src/lib/mounts.ts'

let root: string
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'headgate-folders-'))
})
afterAll(() => rm(root, { recursive: true, force: true }))

test('a folder is locked for one process, and free the moment its holder is killed', async () => {
  const folder = join(root, 'locked')
  const code = `import { lockDirectory } from ${JSON.stringify(join(import.meta.dir, '../../src/lib/dir-lock.ts'))}
    console.log(lockDirectory(${JSON.stringify(folder)}, 0) !== undefined)
    setInterval(() => {}, 1000)`
  const holder = Bun.spawn([process.execPath, '-e', code], { stdout: 'pipe', stderr: 'inherit' })
  const said = await holder.stdout.getReader().read()
  expect(new TextDecoder().decode(said.value).trim()).toBe('true')
  expect(lockDirectory(folder, 0)).toBeUndefined()
  holder.kill('SIGKILL')
  await holder.exited
  const lock = lockDirectory(folder, 1_000)
  expect(lock).toBeDefined()
  lock?.release()
})

test('what is generated once is the same for all that ask at once, is private, and leaves no drafts', async () => {
  const path = join(root, 'generated', 'secret')
  const texts = await Promise.all(Array.from({ length: 20 }, (_, i) => readOrCreate(path, () => `secret ${i}`, 0o600)))
  expect(new Set(texts).size).toBe(1)
  expect(await readFile(path, 'utf8')).toBe(texts[0]!)
  expect((await stat(path)).mode & 0o777).toBe(0o600)
  expect(await readdir(join(root, 'generated'))).toEqual(['secret'])
})

test('the file system of a folder is that of the deepest mount above it, also before the folder exists', async () => {
  const table = join(root, 'mountinfo')
  const line = (point: string, type: string): string => `36 35 98:0 / ${point} rw,noatime master:1 - ${type} source rw`
  await writeFile(
    table,
    [
      line('/', 'overlay'),
      line('/data', 'ext4'),
      line('/data/net\\040share', 'nfs4'),
      line('/mnt', 'cifs'),
      line('/mnt/sshfs', 'fuse.sshfs'),
      line('/data2', 'xfs'),
    ].join('\n'),
  )
  const at = async (path: string) => (await findMount(path, table))!
  expect((await at('/data/one')).fileSystem).toBe('ext4')
  expect((await at('/data2')).fileSystem).toBe('xfs')
  expect(isNetworkMount(await at('/data/net share/deep/er'))).toBe(true)
  expect(isNetworkMount(await at('/mnt/x'))).toBe(true)
  expect(isNetworkMount(await at('/mnt/sshfs/x'))).toBe(false)
  expect(isDoubtfulMount(await at('/mnt/sshfs/x'))).toBe(true)
  expect(isContainerLayer(await at('/app'))).toBe(true)
  expect(isContainerLayer(await at('/data'))).toBe(false)
  expect(await findMount('/data', join(root, 'absent'))).toBeUndefined()
})
