/**
 * What `serve`, the workers and `doctor` look at before anything is opened: the configuration, and the folders it names.
 * All problems come together, so that an operator mends them in one go.
 */
import { dirname } from 'node:path'
import {
  type Config,
  checkDotenv,
  type Environment,
  type LoadedConfig,
  loadConfig,
  readEnvironment,
} from '../config.ts'
import { parseDsn } from '../db/dsn.ts'
import { countCpus } from '../lib/cpus.ts'
import { findMount, isContainerLayer, isDoubtfulMount, isNetworkMount } from '../lib/mounts.ts'
import { parseRedisAddress } from '../state/index.ts'

export interface Flags {
  readonly port?: string
  readonly logDir?: string
  /** `uid:gid` to become after the folders are owned; only for a process that is root. */
  readonly user?: string
}

export interface Preflight extends LoadedConfig {
  /** The environment with `.env` merged in: what workers get. */
  readonly env: Environment
}

export async function preflight(flags: Flags): Promise<Preflight> {
  const env = await readEnvironment()
  const loaded = loadConfig(env, {
    parseDsn,
    cpus: await countCpus(),
    canSharePort: process.platform === 'linux',
    flags,
  })
  const folders = await checkFolders(loaded.config)
  return {
    env,
    config: loaded.config,
    problems: [...loaded.problems, ...checkRedisAddress(loaded.config), ...folders.problems],
    warnings: [...(await checkDotenv()), ...loaded.warnings, ...folders.warnings],
  }
}

function checkRedisAddress({ redisConnString }: Config): readonly string[] {
  // What is no address at all has been said already.
  if (!/^\w+:\/\//.test(redisConnString)) return []
  try {
    parseRedisAddress(redisConnString)
    return []
  } catch (error) {
    return [`REDIS_CONN_STRING: ${error instanceof Error ? error.message : 'cannot be read'}`]
  }
}

/** Folders that one node must have to itself. */
export function ownFolders(config: Config): readonly string[] {
  const sqliteFolder = dirname(config.sqlitePath.split('?')[0]!)
  return config.isSingleNode && sqliteFolder !== config.dataDir ? [config.dataDir, sqliteFolder] : [config.dataDir]
}

async function checkFolders(config: Config): Promise<{ problems: string[]; warnings: string[] }> {
  const problems: string[] = []
  const warnings: string[] = []
  for (const folder of ownFolders(config)) {
    const name = folder === config.dataDir ? 'DATA_DIR' : 'SQLITE_PATH'
    const mount = await findMount(folder)
    if (!mount) continue
    if (isNetworkMount(mount)) {
      problems.push(
        `${name}: ${folder} is on a network file system (${mount.fileSystem}), where locks and journals fail; use a local disk`,
      )
    } else if (isDoubtfulMount(mount)) {
      warnings.push(
        `${name}: ${folder} is on ${mount.fileSystem}; make sure that it is a local disk with working locks`,
      )
    } else if (isContainerLayer(mount)) {
      warnings.push(`${name}: ${folder} is a layer of this container and is lost with it; mount a volume there`)
    }
  }
  return { problems, warnings }
}
