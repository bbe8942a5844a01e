/**
 * On what kind of file system a folder lies. Locks and write-ahead logs fail on network file systems, and what a container
 * writes into its own layer is lost with it. Linux only; elsewhere nothing is known and nothing is refused.
 */
import { realpath } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { readTextIfPresent } from './files.ts'

export interface Mount {
  readonly mountPoint: string
  /** As the kernel names it, such as `ext4`, `nfs4`, `overlay`. */
  readonly fileSystem: string
}

const NETWORK = /^(nfs\d?|cifs|smb\d?|smbfs|afs)$/
/** Some of these are local or lock properly, so nothing is refused. */
const DOUBTFUL = /^(9p|ceph|glusterfs|lustre|fuse\..+)$/

/** @param path need not exist; its place is looked at. @returns undefined where it is not known */
export async function findMount(path: string, mountsFile = '/proc/self/mountinfo'): Promise<Mount | undefined> {
  const table = await readTextIfPresent(mountsFile)
  if (table === undefined) return undefined
  const real = await nearestReal(resolve(path))
  let best: Mount | undefined
  for (const mount of parseMounts(table)) {
    const isInside =
      real === mount.mountPoint || real.startsWith(mount.mountPoint === '/' ? '/' : `${mount.mountPoint}/`)
    // Of mounts on the same point the last one is on top.
    if (isInside && (!best || mount.mountPoint.length >= best.mountPoint.length)) best = mount
  }
  return best
}

export const isNetworkMount = (mount: Mount): boolean => NETWORK.test(mount.fileSystem)

export const isDoubtfulMount = (mount: Mount): boolean => DOUBTFUL.test(mount.fileSystem)

/** Is this the writable layer of a container, which is deleted with it? */
export const isContainerLayer = (mount: Mount): boolean =>
  mount.mountPoint === '/' && /^(overlay|aufs)$/.test(mount.fileSystem)

async function nearestReal(path: string): Promise<string> {
  try {
    return await realpath(path)
  } catch {
    // It is not there yet, or not to be seen: its parent decides.
    return path === dirname(path) ? path : join(await nearestReal(dirname(path)), basename(path))
  }
}

/** `36 35 98:0 /root /mount/point options … - fstype source options`, blanks in names as `\040`. */
function parseMounts(table: string): Mount[] {
  return table.split('\n').flatMap((line) => {
    const [left, right] = line.split(' - ')
    const mountPoint = left?.split(' ')[4]
    const fileSystem = right?.split(' ')[0]
    if (!mountPoint || !fileSystem) return []
    return [
      {
        mountPoint: mountPoint.replace(/\\(\d{3})/g, (_, octal: string) =>
          String.fromCharCode(Number.parseInt(octal, 8)),
        ),
        fileSystem,
      },
    ]
  })
}
