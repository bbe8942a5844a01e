/**
 * How a node comes into its cluster: waits for its databases, and finds out whether its secrets are those of the others. A
 * node that does not fit serves nobody, and says so to those who run the others.
 */
import { type Config, ConfigError } from './config.ts'
import { type Db, DbError, readTopicVersions } from './db/index.ts'
import { beginKeysAtRest, lockedKeys } from './domain/channels/index.ts'
import { createAgreement, deriveSecrets, openSalt } from './domain/cluster/index.ts'
import { type Alerts, createAlerts, createMailer } from './domain/notify/index.ts'
import { createOptions, type Options } from './domain/options/index.ts'
import { systemClock } from './lib/clock.ts'
import type { Log } from './lib/log.ts'
import type { NodeLink } from './node.ts'
import { createTopics, type State } from './state/index.ts'

interface Joining {
  readonly config: Config
  readonly node: NodeLink
  readonly log: Log
}

/** How long a start waits for a database that is away or full before it gives up. */
const DB_WAIT_MS = 120_000
const DB_RETRY_MS = 500
const DB_RETRY_MAX_MS = 5_000
/** How long a node that must not start waits for its alert to be delivered. */
const ALERT_WAIT_MS = 10_000

/** Tries again while a database is away, full or busy with another node's sync; says why, and gives up after a bound. */
export async function untilAvailable<T>(name: string, log: Log, work: () => Promise<T>): Promise<T> {
  const giveUpAt = systemClock.monotonic() + DB_WAIT_MS
  let pauseMs = DB_RETRY_MS
  for (;;) {
    try {
      return await work()
    } catch (error) {
      if (!(error instanceof DbError)) throw error
      // A wrong password or name does not get better by waiting.
      if (error.kind === 'other') throw new ConfigError(`the ${name} refuses: ${error.message}`)
      if (error.kind !== 'unavailable' || systemClock.monotonic() > giveUpAt) throw error
      log.warn('a database is awaited; `headgate doctor` tells more', { part: name, error: error.message })
      await Bun.sleep(pauseMs)
      pauseMs = Math.min(2 * pauseMs, DB_RETRY_MAX_MS)
    }
  }
}

/** @throws ConfigError */
export function refuse(problem: string | undefined): void {
  if (problem !== undefined) throw new ConfigError(problem)
}

/** What a node accepts, newest first; it signs with what its cluster has agreed on. */
export const sessionSecretsOf = ({ sessionSecret, sessionSecretPrevious }: Config): readonly string[] =>
  [sessionSecret, sessionSecretPrevious].filter((secret) => secret !== '')

/**
 * The secrets of this node, once they are known to be those of its cluster.
 * @throws ConfigError that names the variable, after an alert
 */
export async function joinCluster(db: Db, joining: Joining & { readonly alert: Alerts['raise'] }) {
  const { config, node, log, alert } = joining
  const join = async () => {
    const own = await deriveSecrets(
      {
        session: sessionSecretsOf(config),
        crypto: [config.cryptoSecret, config.cryptoSecretPrevious].filter((secret) => secret !== ''),
        ledgerLeaseSec: config.ledgerLeaseSec,
      },
      await openSalt(db),
    )
    const agreement = createAgreement({
      db,
      own: own.fingerprints,
      nodeId: node.nodeId,
      isAlone: config.isSingleNode,
      isCryptoDerived: !config.hasCryptoSecret,
      unreadable: () => lockedKeys(db, own.keyring),
      leaseMs: config.ledgerLeaseSec * 1000,
      alert,
      log,
      clock: systemClock,
    })
    refuse(await agreement.join())
    await beginKeysAtRest(db, own.keyring, config.hasCryptoSecret && config.isKeyEncryptionWanted)
    return { ...own, agreement }
  }
  try {
    return await untilAvailable('cluster', log, join)
  } catch (error) {
    if (error instanceof ConfigError) await tellMismatch(db, joining, error)
    throw error
  }
}

export const openAlerts = (db: Db, state: State, options: Options, { config, log }: Joining): Alerts =>
  createAlerts({
    db,
    state,
    options,
    mailer: createMailer(options),
    node: config.nodeName,
    fetch,
    log,
    clock: systemClock,
  })

async function tellMismatch(db: Db, joining: Joining, error: ConfigError): Promise<void> {
  const { config, node, log } = joining
  const clock = systemClock
  const readVersions = () => readTopicVersions(db)
  const topics = createTopics({ state: node.state, readVersions, fullReloadMs: 60_000, log, clock })
  const options = createOptions({ db, topics, log, clock })
  try {
    await options.ready()
    const alerts = openAlerts(db, node.state, options, joining)
    const text = `The node ${config.nodeName} does not start: ${error.message}`
    alerts.raise({ kind: 'secret-mismatch', key: config.nodeName, text })
    await Promise.race([alerts.idle(), Bun.sleep(ALERT_WAIT_MS)])
  } catch (failure) {
    log.warn('an alert could not be raised', { error: failure })
  } finally {
    options.close()
    await topics.stop()
  }
}
