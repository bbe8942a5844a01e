/**
 * Whether this node has what the cluster agreed on, from before it serves until it stops. A secret is replaced without a
 * break in one roll-out: nodes that have the new one keep signing with the old one until every node has it, and only
 * then the cluster agrees on the new one.
 */
import type { Db } from '../../db/index.ts'
import type { Clock } from '../../lib/clock.ts'
import type { Log } from '../../lib/log.ts'
import { createLoop, type Loop } from '../../lib/loop.ts'
import type { Topics } from '../../state/index.ts'
import type { Alerts } from '../notify/index.ts'
import {
  type Agreed,
  type Alike,
  differingFrom,
  type Fingerprints,
  openAgreed,
  readAgreed,
  readPeers,
  replaceAgreed,
  SECRETS_TOPIC,
} from './fingerprints.ts'
import { findLivingNodes } from './living.ts'

export interface AgreementDeps {
  readonly db: Db
  readonly own: Fingerprints
  /** The same over restarts: instances of this node are not others. */
  readonly nodeId: string
  /** Nobody else can have this database. */
  readonly isAlone: boolean
  /** `CRYPTO_SECRET` is not set, so that it follows `SESSION_SECRET`. */
  readonly isCryptoDerived: boolean
  /** What in the database this node's secrets cannot read, in words; undefined when they read all of it. */
  readonly unreadable: () => Promise<string | undefined>
  readonly leaseMs: number
  readonly alert?: Alerts['raise']
  readonly log: Log
  readonly clock: Clock
}

/** How often an unfinished roll-out is looked at. */
const LOOK_MS = 2_000

export function createAgreement(deps: AgreementDeps) {
  const { db, own, nodeId, log, clock } = deps
  let agreed: Agreed = {}
  let looking: Loop | undefined
  let unwatch = (): void => {}
  let topics: Topics | undefined
  let told = ''

  /** Secrets of which this node has a newer one than the cluster. */
  const pending = (): readonly Alike[] =>
    differing().length > 0 ? [] : [...CHANGEABLE].filter((name) => agreed[name] !== own[name][0])

  /** A derived secret that differs is no news beside the one it comes from. */
  const differing = (): readonly Alike[] => {
    const names = differingFrom(agreed, own)
    return deps.isCryptoDerived && names.includes('SESSION_SECRET')
      ? names.filter((name) => name !== 'CRYPTO_SECRET')
      : names
  }

  const othersLive = async (): Promise<readonly string[]> =>
    deps.isAlone
      ? []
      : findLivingNodes(db, {
          exceptNodeId: nodeId,
          leaseMs: deps.leaseMs,
          clock,
          onWait: (nodes) =>
            log.warn('a variable differs from the cluster; looking whether another node lives', {
              variables: differing(),
              nodes,
            }),
        })

  /** @returns what keeps this node from serving, in words that name the variable; undefined if nothing does */
  const join = async (): Promise<string | undefined> => {
    for (;;) {
      agreed = await openAgreed(db, own)
      const names = differing()
      if (names.length === 0) return deps.unreadable()
      const living = await othersLive()
      if (living.length > 0) return refusal(names, living)
      const unreadable = await deps.unreadable()
      if (unreadable !== undefined) return unreadable
      const change = Object.fromEntries(differingFrom(agreed, own).map((name) => [name, own[name][0]!]))
      if (await replaceAgreed(db, agreed, change)) {
        log.warn('no other node lives: the cluster takes over the values of this node', { variables: names })
        agreed = { ...agreed, ...change }
        return undefined
      }
    }
  }

  /** Agrees on the newer secret once every instance has it as its own. */
  const advance = async (): Promise<void> => {
    const names = pending()
    if (names.length === 0) return
    const isEverywhere = async (tx: Db, name: Alike): Promise<boolean> => {
      const peers = await readPeers(tx)
      return peers.length > 0 && peers.every((peer) => peer.fingerprints?.[name]?.[0] === own[name][0])
    }
    for (const name of names) {
      const change = { [name]: own[name][0]! }
      if (!(await replaceAgreed(db, agreed, change, (tx) => isEverywhere(tx, name)))) continue
      agreed = { ...agreed, ...change }
      log.info('every node has the new secret: the cluster goes over to it', { variable: name })
      await topics?.changed(SECRETS_TOPIC)
    }
  }

  const load = async (): Promise<void> => {
    agreed = (await readAgreed(db)) ?? agreed
    const text = problem() ?? ''
    if (text !== '' && text !== told) {
      log.error('this node does not fit its cluster any more', { problem: text })
      deps.alert?.({ kind: 'secret-mismatch', key: nodeId, text })
    }
    told = text
  }

  const problem = (): string | undefined => {
    const names = differing()
    return names.length === 0 ? undefined : refusal(names, [])
  }

  return {
    join,
    /** Once more, when the instance's row is there for others to see. @returns as `join` */
    async confirm(): Promise<string | undefined> {
      agreed = (await readAgreed(db)) ?? agreed
      return problem() ?? deps.unreadable()
    },
    /** Position of the session secret that signs; all of them are accepted. */
    signing: (): number => Math.max(0, own.SESSION_SECRET.indexOf(agreed.SESSION_SECRET ?? '')),
    /** What does not fit now: the cluster moved on while this node was frozen or cut off. */
    problem,
    /** One look at an unfinished roll-out; `follow` repeats it. */
    advance,
    follow(live: Topics): void {
      topics = live
      unwatch = live.watch(SECRETS_TOPIC, load)
      looking = createLoop({
        everyMs: LOOK_MS,
        run: advance,
        onError: (error) => log.debug('the roll-out of a secret was not looked at', { error }),
      })
    },
    async close(): Promise<void> {
      unwatch()
      await looking?.stop()
    },
  }
}
export type Agreement = ReturnType<typeof createAgreement>

const CHANGEABLE = new Set<Alike>(['SESSION_SECRET', 'CRYPTO_SECRET'])

function refusal(names: readonly Alike[], living: readonly string[]): string {
  const where = living.length > 0 ? ` (living: ${living.join(', ')})` : ''
  return names
    .map((name) => {
      const what = `${name}: this node's value differs from the cluster's${where}`
      return CHANGEABLE.has(name)
        ? `${what}; use the same on every node. To replace it, give every node the new one, and the old one as ${name}_PREVIOUS`
        : `${what}; use the same on every node. To change it, stop every node first`
    })
    .join('; ')
}
