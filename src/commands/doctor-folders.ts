/** What `doctor` finds about folders, free space and secrets. */
import { access, constants, stat, statfs } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { Config } from '../config.ts'
import { LOCK_FILE, lockDirectory } from '../lib/dir-lock.ts'
import { findMount } from '../lib/mounts.ts'
import type { Finding } from './doctor.ts'
import { ownFolders } from './preflight.ts'

const MIB = 1024 * 1024
/** A journal that cannot grow stops the node, so the warning comes well before. */
const LOW_BYTES = 1024 * MIB
const FULL_BYTES = 50 * MIB

export async function checkFolders(config: Config): Promise<readonly Finding[]> {
  const findings: Finding[] = []
  for (const folder of ownFolders(config)) {
    findings.push(await checkWritable(folder), await checkSpace(folder))
    findings.push(await checkHolder(folder))
  }
  if (config.logDir !== '') findings.push(await checkWritable(config.logDir), await checkSpace(config.logDir))
  return findings
}

async function checkWritable(folder: string): Promise<Finding> {
  const existing = await nearestExisting(folder)
  try {
    await access(existing, constants.W_OK | constants.X_OK)
    const how = existing === folder ? 'is writable' : 'is not there yet and can be made'
    return {
      level: 'ok',
      text: `${folder} ${how} (${(await findMount(folder))?.fileSystem ?? 'file system not known'})`,
    }
  } catch {
    // The answer of `access` is the finding.
    return {
      level: 'problem',
      text: `${folder} cannot be written`,
      advice: `give this user the right to write in ${existing}`,
    }
  }
}

async function checkSpace(folder: string): Promise<Finding> {
  const { bavail, bsize } = await statfs(await nearestExisting(folder))
  const freeBytes = bavail * bsize
  const text = `${folder} has ${Math.floor(freeBytes / MIB)} MiB free`
  if (freeBytes < FULL_BYTES)
    return { level: 'problem', text, advice: 'free space: charges cannot be journalled, and calls will be refused' }
  return freeBytes < LOW_BYTES ? { level: 'warning', text, advice: 'free space soon' } : { level: 'ok', text }
}

/** From another process this cannot drop the lock of a running node. Nothing is made: a file of another user would be in the way. */
async function checkHolder(folder: string): Promise<Finding> {
  if (!(await stat(join(folder, LOCK_FILE)).catch(() => undefined)))
    return { level: 'ok', text: `${folder} is free for a node` }
  try {
    const lock = lockDirectory(folder, 0)
    lock?.release()
    return { level: 'ok', text: lock ? `${folder} is free for a node` : `a node is running on ${folder}` }
  } catch (error) {
    return {
      level: 'problem',
      text: `${folder} cannot be locked: ${error instanceof Error ? error.message : String(error)}`,
      advice: 'use a local disk that this user can write',
    }
  }
}

async function nearestExisting(path: string): Promise<string> {
  try {
    await stat(path)
    return path
  } catch {
    // Not there, or not to be seen: its parent tells whether it can be made.
    return path === dirname(path) ? path : nearestExisting(dirname(path))
  }
}

export async function checkSecrets(config: Config): Promise<readonly Finding[]> {
  const findings: Finding[] = []
  if (config.sessionSecret !== '') findings.push({ level: 'ok', text: 'SESSION_SECRET is set' })
  else findings.push(await checkGenerated(join(config.dataDir, 'session-secret')))
  findings.push({
    level: 'ok',
    text: config.hasCryptoSecret ? 'CRYPTO_SECRET is set' : 'CRYPTO_SECRET is the session secret',
  })
  return findings
}

async function checkGenerated(path: string): Promise<Finding> {
  const found = await stat(path).catch(() => undefined)
  if (!found) return { level: 'ok', text: 'SESSION_SECRET is made at the first start and kept in DATA_DIR' }
  const isOpen = process.platform !== 'win32' && (found.mode & 0o077) !== 0
  return isOpen
    ? { level: 'warning', text: `others can read ${path}`, advice: `chmod 600 ${path}` }
    : { level: 'ok', text: `SESSION_SECRET was generated and lies in ${path}` }
}
