/** What `doctor` finds about this node among the others: secrets that do not fit, and settings that differ. */
import { join } from 'node:path'
import { VERSION } from '../build-info.ts'
import type { Config } from '../config.ts'
import { type Db, findMissing } from '../db/index.ts'
import { lockedKeys, readKeysState } from '../domain/channels/index.ts'
import {
  deriveSecrets,
  differingFrom,
  nodeSettings,
  readAgreed,
  readDifferences,
  readPeers,
  readSalt,
} from '../domain/cluster/index.ts'
import { readTextIfPresent } from '../lib/files.ts'
import type { Finding } from './doctor.ts'
import { hasDatabase, openDatabase } from './open-database.ts'

/** @returns nothing where there is no database to ask, which is told elsewhere */
export async function checkCluster(config: Config): Promise<readonly Finding[]> {
  if (!(await hasDatabase(config))) return []
  let db: Db | undefined
  try {
    db = await openDatabase(config)
    const salt = (await findMissing(db)).length > 0 ? undefined : await readSalt(db)
    if (salt === undefined) return [{ level: 'ok', text: 'no node has used this database yet' }]
    return [
      ...(await checkFit(db, config, salt)),
      ...(await checkKeys(db, config)),
      ...(await checkDifferences(db, config)),
    ]
  } catch {
    // The database's own part of the report says what is wrong with it.
    return []
  } finally {
    await db?.close()
  }
}

async function checkFit(db: Db, config: Config, salt: string): Promise<readonly Finding[]> {
  const agreed = await readAgreed(db)
  const session = config.sessionSecret || (await generatedSecret(config))
  const present = (texts: readonly string[]): readonly string[] => texts.filter((text) => text !== '')
  const own = await deriveSecrets(
    {
      session: present([session, config.sessionSecretPrevious]),
      crypto: present([config.cryptoSecret || session, config.cryptoSecretPrevious]),
      ledgerLeaseSec: config.ledgerLeaseSec,
    },
    salt,
  )
  // Where there is no secret to compare (a generated one that this user may not read), nothing is said about it.
  const { fingerprints } = own
  const names = agreed ? differingFrom(agreed, fingerprints).filter((name) => fingerprints[name].length > 0) : []
  const isAlone = config.isSingleNode || (await readPeers(db)).length === 0
  const findings = names.map(
    (name): Finding => ({
      level: isAlone ? 'warning' : 'problem',
      text: `${name} differs from the cluster's`,
      advice: isAlone
        ? 'no node is running: the next start takes this value over'
        : `give every node the same; to replace a secret, set the old one as ${name}_PREVIOUS beside it`,
    }),
  )
  const locked = await lockedKeys(db, own.keyring)
  if (locked !== undefined) findings.push({ level: 'problem', text: locked, advice: 'see `headgate keys status`' })
  return findings.length > 0 ? findings : [{ level: 'ok', text: "secrets and lease are the cluster's" }]
}

const generatedSecret = async (config: Config): Promise<string> =>
  ((await readTextIfPresent(join(config.dataDir, 'session-secret')).catch(() => undefined)) ?? '').trim()

async function checkKeys(db: Db, config: Config): Promise<readonly Finding[]> {
  const { isEncrypted } = await readKeysState(db)
  if (isEncrypted && !config.isKeyEncryptionWanted)
    return [
      {
        level: 'warning',
        text: 'upstream keys are stored encrypted, though ENCRYPT_KEYS_AT_REST is false',
        advice: 'it only says how a new database begins; `headgate keys decrypt` stores them plain',
      },
    ]
  return [{ level: 'ok', text: `upstream keys are stored ${isEncrypted ? 'encrypted' : 'plain'}` }]
}

/** This machine's clock has a part of its own in the report. */
async function checkDifferences(db: Db, config: Config): Promise<readonly Finding[]> {
  const version = config.reportedVersion || VERSION
  const own = { node: config.nodeName, version, settings: nodeSettings(config, 0) }
  return (await readDifferences(db, own)).map(({ name, values }) => ({
    level: 'warning',
    text: `${name} is not the same everywhere: ${values.map(({ value, nodes }) => `${value || 'none'} on ${nodes.join(', ')}`).join('; ')}`,
    advice:
      name === 'clock' ? 'run a time service such as chrony there' : 'nodes work on; make sure that this is meant',
  }))
}
