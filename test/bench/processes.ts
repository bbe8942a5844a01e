/** What the operating system knows of processes: the CPU time of a whole tree, and resident memory. Linux only. */
import { readdir, readFile, writeFile } from 'node:fs/promises'

/** The unit of times in /proc on every Linux that Bun runs on. @source https://man7.org/linux/man-pages/man7/time.7.html */
const TICK_US = 10_000

interface Stat {
  readonly pid: number
  readonly parent: number
  /** user + system, of the process itself and of children that ended, in ticks */
  readonly ticks: number
}

/** @source https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html */
async function statOf(pid: number, path = `/proc/${pid}/stat`): Promise<Stat | undefined> {
  const text = await readFile(path, 'utf8').catch(() => '')
  // The name may hold blanks and brackets; what follows its last bracket does not.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
  if (fields.length < 15) return undefined
  const [utime, stime, cutime, cstime] = fields.slice(11, 15).map(Number)
  return { pid, parent: Number(fields[1]), ticks: utime! + stime! + cutime! + cstime! }
}

/** The process and all that descend from it. */
async function treeOf(root: number): Promise<readonly Stat[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number)
  const all = (await Promise.all(pids.map((pid) => statOf(pid)))).filter((stat) => stat !== undefined)
  const tree = all.filter((stat) => stat.pid === root)
  for (const member of tree) tree.push(...all.filter((stat) => stat.parent === member.pid))
  return tree
}

/** User and system time of a process and all its children, dead ones included, in microseconds; exact to 10 ms. */
export async function cpuOf(root: number): Promise<number> {
  return (await treeOf(root)).reduce((sum, stat) => sum + stat.ticks, 0) * TICK_US
}

/** Of several, added up. */
export const cpuOfAll = async (pids: readonly number[]): Promise<number> =>
  (await Promise.all(pids.map(cpuOf))).reduce((a, b) => a + b, 0)

/** The same of the main thread alone, where a Bun process runs its JavaScript. */
export async function mainThreadCpuOf(pid: number): Promise<number> {
  return ((await statOf(pid, `/proc/${pid}/task/${pid}/stat`))?.ticks ?? 0) * TICK_US
}

/** Resident memory of one process in MB (10⁶ bytes); 0 when it is gone. */
export const residentOf = (pid: number): Promise<number> => memoryOf(pid, 'VmRSS')

/** The most that was resident since the process began or `resetPeak`, in MB; the system misses nothing between two looks. */
export const peakOf = (pid: number): Promise<number> => memoryOf(pid, 'VmHWM')

/** @source https://man7.org/linux/man-pages/man5/proc_pid_clear_refs.5.html */
export const resetPeak = (pid: number): Promise<void> => writeFile(`/proc/${pid}/clear_refs`, '5')

async function memoryOf(pid: number, name: string): Promise<number> {
  const text = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '')
  return (Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(text)?.[1] ?? 0) * 1024) / 1e6
}

/**
 * The same of several processes together: what they map of one file counts once, as much of it as the one that has the
 * most, since processes of one program share its pages. What only one of the others has is missed, about 1 % of the sum.
 * @source https://man7.org/linux/man-pages/man5/proc_pid_smaps.5.html
 */
export async function residentTogether(pids: readonly number[]): Promise<number> {
  const most = new Map<string, number>()
  let ownKb = 0
  for (const text of await Promise.all(pids.map((pid) => readFile(`/proc/${pid}/smaps`, 'utf8').catch(() => '')))) {
    for (const mapping of text.split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)) {
      const [, offset, inode] = /^\S+ \S+ (\S+) \S+ (\d+)/.exec(mapping) ?? []
      const numberOf = (field: string) => Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(mapping)?.[1] ?? 0)
      const anonymousKb = numberOf('Anonymous')
      ownKb += anonymousKb
      const key = `${inode} ${offset}`
      most.set(key, Math.max(most.get(key) ?? 0, numberOf('Rss') - anonymousKb))
    }
  }
  const sharedKb = [...most.values()].reduce((sum, kb) => sum + kb, 0)
  return ((ownKb + sharedKb) * 1024) / 1e6
}
