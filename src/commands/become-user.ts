/**
 * Gives the folders of a node to its own user and turns into it: a container starts as root only because volumes belong
 * to root when they are mounted.
 */
import { lchown, mkdir, readdir } from 'node:fs/promises'
import { join } from 'node:path'

/**
 * Does nothing in a process that is not root.
 * @param user `uid:gid`, numbers
 * @throws on a user that is not two numbers, or a folder that cannot be given away
 */
export async function becomeUser(user: string, folders: readonly string[]): Promise<void> {
  const match = /^(\d+):(\d+)$/.exec(user)
  if (!match) throw new Error(`--user ${user}: write it as uid:gid, two numbers`)
  if (process.getuid?.() !== 0) return
  const uid = Number(match[1])
  const gid = Number(match[2])
  for (const folder of folders) {
    await mkdir(folder, { recursive: true })
    await giveTree(folder, uid, gid)
  }
  // Groups first: without root they could not be changed any more.
  process.setgroups?.([gid])
  process.setgid?.(gid)
  process.setuid?.(uid)
}

/** Links are given away themselves, never followed. */
async function giveTree(path: string, uid: number, gid: number): Promise<void> {
  await lchown(path, uid, gid)
  for (const entry of await readdir(path, { withFileTypes: true })) {
    const child = join(path, entry.name)
    if (entry.isDirectory()) await giveTree(child, uid, gid)
    else await lchown(child, uid, gid)
  }
}
