/**
 * `headgate keys`: shows how upstream keys lie in the database, and encrypts, decrypts or re-encrypts them while nodes
 * run. Refuses what would leave a running node without its keys.
 */
import { type Config, EXIT_CONFIG } from '../config.ts'
import { type Db, findMissing } from '../db/index.ts'
import { discardUnreadable, type KeysReport, reportKeys, rewriteKeys } from '../domain/channels/index.ts'
import {
  deriveSecrets,
  differingFrom,
  nodesWithout,
  type OwnSecrets,
  readAgreed,
  readPeers,
  readSalt,
} from '../domain/cluster/index.ts'
import { messageOf } from '../lib/error-text.ts'
import { becomeUser } from './become-user.ts'
import { hasDatabase, openDatabase, runningNodes } from './open-database.ts'
import { type Flags, preflight } from './preflight.ts'

const ACTIONS = ['status', 'encrypt', 'decrypt', 'rotate', 'discard'] as const
export type KeysAction = (typeof ACTIONS)[number]

export const isKeysAction = (text: string): text is KeysAction => (ACTIONS as readonly string[]).includes(text)

const NOT_USED = 'no node of this release has used this database yet: start one first'

/** @returns 0 when all is as asked for, 1 when something is left to do, 78 when the configuration does not allow it */
export async function keys(flags: Flags, action: KeysAction): Promise<number> {
  const { config, problems } = await preflight(flags)
  if (problems.length > 0) return refuse(problems.join('\n'), EXIT_CONFIG)
  // A database file must stay readable for the node's own user.
  if (flags.user) await becomeUser(flags.user, [])
  if (!(await hasDatabase(config))) return refuse(NOT_USED, 1)
  let db: Db
  try {
    db = await openDatabase(config)
  } catch (error) {
    return refuse(`the database cannot be opened: ${messageOf(error)}`, 1)
  }
  try {
    return await run(db, config, action)
  } catch (error) {
    return refuse(`${messageOf(error)}; nothing is lost, run the command again`, 1)
  } finally {
    await db.close()
  }
}

async function run(db: Db, config: Config, action: KeysAction): Promise<number> {
  const salt = (await findMissing(db)).length > 0 ? undefined : await readSalt(db)
  if (salt === undefined) return refuse(NOT_USED, 1)
  const crypto = [config.cryptoSecret, config.cryptoSecretPrevious].filter((secret) => secret !== '')
  const own = await deriveSecrets({ session: [], crypto, ledgerLeaseSec: config.ledgerLeaseSec }, salt)
  const report = await reportKeys(db, own.keyring)
  switch (action) {
    case 'status':
      print(describe(report, own))
      return report.unreadable.length > 0 ? 1 : 0
    case 'decrypt':
      return done(await rewriteKeys(db, own.keyring, 'plain'), 'decrypted')
    case 'discard': {
      const nodes = await runningNodes(db, config, print)
      if (nodes.length > 0) return refuse(`stop every node first; these are running: ${nodes.join(', ')}`, 1)
      const given = await discardUnreadable(db, own.keyring, Math.floor(Date.now() / 1000))
      print(`channels that lost their key and are disabled: ${given.join(', ') || 'none'}`)
      return 0
    }
    default: {
      const refusal = await findRefusal(db, config, own, report, action)
      if (refusal !== undefined) return refuse(refusal, EXIT_CONFIG)
      return done(await rewriteKeys(db, own.keyring, 'encrypted'), 'encrypted')
    }
  }
}

/** @returns why keys must not be encrypted with the current secret of this environment */
async function findRefusal(
  db: Db,
  config: Config,
  own: OwnSecrets,
  report: KeysReport,
  action: 'encrypt' | 'rotate',
): Promise<string | undefined> {
  if (!config.hasCryptoSecret)
    return 'CRYPTO_SECRET is not set: set it on every node first; a session secret may be lost, and the keys with it'
  if (action === 'rotate' && !report.state.isEncrypted) return 'keys are not encrypted; use `headgate keys encrypt`'
  const agreed = await readAgreed(db)
  if (agreed && differingFrom(agreed, own.fingerprints).includes('CRYPTO_SECRET'))
    return "CRYPTO_SECRET: this value differs from the cluster's; use the cluster's own, and to replace it see the README"
  const without = nodesWithout(await readPeers(db), 'CRYPTO_SECRET', own.fingerprints.CRYPTO_SECRET[0]!)
  return without.length === 0
    ? undefined
    : `CRYPTO_SECRET: these nodes do not have this value and could not read the keys: ${without.join(', ')}`
}

function describe({ state, plain, empty, sealed, unreadable }: KeysReport, own: OwnSecrets): string {
  const [current, previous] = own.keyring.ids
  const nameOf = (id: string): string => {
    if (id === current) return 'with CRYPTO_SECRET'
    return id === previous ? 'with CRYPTO_SECRET_PREVIOUS' : 'with another secret'
  }
  return [
    `keys are stored ${state.isEncrypted ? `encrypted, ${nameOf(state.with)} (${state.with})` : 'plain'}`,
    `channels with a plain key: ${plain}`,
    ...[...sealed].map(([id, count]) => `channels with a key encrypted ${nameOf(id)} (${id}): ${count}`),
    `channels without a key: ${empty}`,
    ...(unreadable.length > 0 ? [`channels whose key cannot be read here: ${unreadable.join(', ')}`] : []),
    ...(state.also.length > 0 ? ['a change was interrupted: run the same command again'] : []),
  ].join('\n')
}

function done({ changed, unreadable }: { changed: number; unreadable: readonly number[] }, what: string): number {
  print(`channels ${what}: ${changed}`)
  if (unreadable.length === 0) return 0
  return refuse(
    `the keys of these channels cannot be read here: ${unreadable.join(', ')}; set the secret they were encrypted with as CRYPTO_SECRET_PREVIOUS and run the command again`,
    1,
  )
}

const print = (text: string): void => void process.stdout.write(`${text}\n`)

function refuse(why: string, code: number): number {
  process.stderr.write(`headgate keys: ${why}\n`)
  return code
}
