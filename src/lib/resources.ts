/**
 * What this process and the container around it use of CPU, memory and disk. Figures of the machine as a whole are only the
 * last resort: neighbours are not our load.
 */
import { stat, statfs } from 'node:fs/promises'
import { totalmem } from 'node:os'
import type { Clock } from './clock.ts'
import { readTextIfPresent } from './files.ts'

export interface Resources {
  /** Of the CPUs the process may use, 0 to 100, since the last reading. */
  readonly cpuPercent: number
  /** Resident memory of the process. */
  readonly memoryBytes: number
  /** What the container may have, or the machine has. */
  readonly memoryLimitBytes: number
  /** The container's, if it has a limit of its own: all its processes, without what the kernel could drop. */
  readonly container: { readonly cpuPercent: number; readonly memoryBytes: number } | undefined
  /** Of the file system the folder lies on; zeros where it cannot be asked. */
  readonly disk: { readonly totalBytes: number; readonly freeBytes: number }
}

/** What the kernel tells of a control group. */
export interface ControlGroup {
  /** Since it exists. */
  readonly cpuMs: number
  readonly memoryBytes: number
  /** Infinity: none. */
  readonly memoryLimitBytes: number
}

/** @param options.cpus as `countCpus` has it */
export function createResourceMeter(options: {
  readonly folder: string
  readonly cpus: number
  readonly clock: Clock
  readonly readGroup?: () => Promise<ControlGroup | undefined>
}) {
  const { folder, cpus, clock, readGroup = readControlGroup } = options
  const ownCpuMs = (): number => {
    const { user, system } = process.cpuUsage()
    return (user + system) / 1000
  }
  let last = { atMs: clock.monotonic(), ownMs: ownCpuMs(), groupMs: undefined as number | undefined }

  return {
    async read(): Promise<Resources> {
      const [group, disk] = await Promise.all([readGroup(), readDisk(folder)])
      const now = { atMs: clock.monotonic(), ownMs: ownCpuMs(), groupMs: group?.cpuMs }
      const percent = (usedMs: number): number => {
        const possibleMs = Math.max(1, now.atMs - last.atMs) * cpus
        return Math.round(Math.min(100, Math.max(0, (usedMs / possibleMs) * 100)) * 10) / 10
      }
      const cpuPercent = percent(now.ownMs - last.ownMs)
      const groupPercent =
        now.groupMs === undefined || last.groupMs === undefined ? 0 : percent(now.groupMs - last.groupMs)
      last = now
      const isLimited = group !== undefined && Number.isFinite(group.memoryLimitBytes)
      return {
        cpuPercent,
        memoryBytes: process.memoryUsage.rss(),
        memoryLimitBytes: isLimited ? group.memoryLimitBytes : totalmem(),
        container: isLimited ? { cpuPercent: groupPercent, memoryBytes: group.memoryBytes } : undefined,
        disk,
      }
    },
  }
}
export type ResourceMeter = ReturnType<typeof createResourceMeter>

/** Do Docker, Podman or Kubernetes run this process? */
export async function isContainer(): Promise<boolean> {
  const marks = ['/.dockerenv', '/run/.containerenv', '/var/run/secrets/kubernetes.io']
  return (await Promise.all(marks.map((path) => stat(path).catch(() => undefined)))).some(
    (found) => found !== undefined,
  )
}

async function readDisk(folder: string): Promise<Resources['disk']> {
  try {
    const { bsize, blocks, bavail } = await statfs(folder)
    return { totalBytes: bsize * blocks, freeBytes: bsize * bavail }
  } catch {
    return { totalBytes: 0, freeBytes: 0 } // A file system that cannot be asked; the journal notices a full one itself.
  }
}

/**
 * Version 2 of control groups, of the process's own group or the root of its container.
 * @source https://docs.kernel.org/admin-guide/cgroup-v2.html
 */
async function readControlGroup(): Promise<ControlGroup | undefined> {
  const own = /^0::(.+)$/m.exec((await readSafely('/proc/self/cgroup')) ?? '')?.[1] ?? '/'
  for (const folder of [`/sys/fs/cgroup${own === '/' ? '' : own}`, '/sys/fs/cgroup']) {
    const current = await readSafely(`${folder}/memory.current`)
    if (current === undefined) continue
    const [limit, stat, cpu] = await Promise.all(
      ['memory.max', 'memory.stat', 'cpu.stat'].map((name) => readSafely(`${folder}/${name}`)),
    )
    const inactive = Number(/^inactive_file (\d+)$/m.exec(stat ?? '')?.[1] ?? 0)
    return {
      cpuMs: Number(/^usage_usec (\d+)$/m.exec(cpu ?? '')?.[1] ?? 0) / 1000,
      memoryBytes: Math.max(0, Number(current) - inactive),
      memoryLimitBytes: /^\d+/.test(limit ?? '') ? Number(limit) : Infinity,
    }
  }
  return undefined
}

/** A file of the kernel that may be absent or closed to us. */
async function readSafely(path: string): Promise<string | undefined> {
  try {
    return await readTextIfPresent(path)
  } catch {
    return undefined
  }
}
