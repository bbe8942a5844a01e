/** How many CPUs this process may really use: the machine's, less what affinity and the container's quota take away. */
import { availableParallelism } from 'node:os'
import { readTextIfPresent } from './files.ts'

/** @returns at least 1; a quota of 1.5 CPUs counts as 2 */
export async function countCpus(): Promise<number> {
  const quota = (await readCgroup2()) ?? (await readCgroup1()) ?? Infinity
  return Math.max(1, Math.min(availableParallelism(), Math.ceil(quota)))
}

/** `cpu.max` holds `<quota|max> <period>`, in microseconds. */
async function readCgroup2(): Promise<number | undefined> {
  const text = await readTextIfPresent('/sys/fs/cgroup/cpu.max')
  const [quota, period] = text?.trim().split(' ') ?? []
  return quota && quota !== 'max' && Number(period) > 0 ? Number(quota) / Number(period) : undefined
}

async function readCgroup1(): Promise<number | undefined> {
  const quota = Number(await readTextIfPresent('/sys/fs/cgroup/cpu/cpu.cfs_quota_us'))
  const period = Number(await readTextIfPresent('/sys/fs/cgroup/cpu/cpu.cfs_period_us'))
  return quota > 0 && period > 0 ? quota / period : undefined
}
