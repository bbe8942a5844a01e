/**
 * Alerts: what an operator should hear of, to the log, to a webhook and by mail. However many nodes see the same event, it
 * is told once; it is told again if it is still so after `alert_setting.repeat_minutes`.
 */
import { createHash, createHmac } from 'node:crypto'
import { and, eq, like, lt } from 'drizzle-orm'
import { createLeaseRow, type Db } from '../../db/index.ts'
import type { Clock } from '../../lib/clock.ts'
import { messageOf } from '../../lib/error-text.ts'
import type { Log } from '../../lib/log.ts'
import { redactText } from '../../lib/redact.ts'
import type { State } from '../../state/index.ts'
import type { Options } from '../options/index.ts'
import type { Mailer } from './mail.ts'

export interface Alert {
  /** `node-lost`, `no-master`, `outbox-growing`, `dependency-down`, `channel-disabled`, `secret-mismatch`, `job-failed`, `test`. */
  readonly kind: string
  /** Whom it concerns, such as a node or a channel: one event of a kind is one key. */
  readonly key: string
  /** One sentence for people, without secrets. */
  readonly text: string
  /** It has ended: told if it was told that it began. Costs nothing where it did not. */
  readonly isOver?: boolean
}

export interface Alerts {
  /** Returns at once and never throws. */
  raise(alert: Alert): void
  /** Sends one now by each way. @returns what was wrong, by way; '' where it arrived */
  trial(text: string): Promise<readonly { readonly way: string; readonly problem: string }[]>
  /** Resolves when all that was raised has been told, or could not be. */
  idle(): Promise<void>
}

/** So that the table of leases does not grow by a row for each event. */
const CLAIM_PREFIX = 'alert:'
const KEEP_CLAIMS_MS = 24 * 3_600_000

/** Forgets that alerts of long ago were told; may be repeated. @returns how many */
export async function pruneAlerts(db: Db): Promise<number> {
  const { leases } = db.tables
  const beforeMs = (await db.now()) - KEEP_CLAIMS_MS
  return db.changes(
    db.delete(leases).where(and(like(leases.name, `${CLAIM_PREFIX}%`), lt(leases.expiresAtMs, beforeMs))),
  )
}

const WAYS = ['webhook', 'mail'] as const
type Way = (typeof WAYS)[number]

const loggedName = (name: string): string => `${name} (logged)`
const statusOf = (alert: Alert): 'firing' | 'resolved' => (alert.isOver ? 'resolved' : 'firing')

/** Pauses before each further try of a webhook or a mail, ms. */
const RETRIES_MS = [1_000, 5_000]
/** That an event is over is told once within this time; it may be over again later. */
const OVER_MS = 60_000
/** A database that is silent must not keep its own alert. */
const CLAIM_MS = 3_000
const WEBHOOK_TIMEOUT_MS = 10_000
/** Names of lease rows are no longer. */
const MAX_NAME = 64
const DIGEST_CHARS = 16

/** Of the row that says who tells it. Long keys with one beginning, such as names of nodes, are still different events. */
function nameOf({ kind, key }: Alert): string {
  const name = `${CLAIM_PREFIX}${kind}:${key}`
  if (name.length <= MAX_NAME) return name
  const digest = createHash('sha256').update(name).digest('hex').slice(0, DIGEST_CHARS)
  return `${name.slice(0, MAX_NAME - DIGEST_CHARS)}${digest}`
}

export function createAlerts(deps: {
  readonly db: Db
  readonly state: Pick<State, 'add' | 'delete'>
  readonly options: Pick<Options, 'get'>
  readonly mailer: Mailer
  readonly node: string
  readonly fetch: typeof fetch
  readonly log: Log
  readonly clock: Clock
}): Alerts {
  const { db, state, options, mailer, node, log, clock } = deps
  const underWay = new Set<Promise<void>>()
  /** name → when this process may raise it again (monotonic): most repetitions cost nothing. */
  const quietUntil = new Map<string, number>()

  /** May this process tell it, of all that have seen it? */
  const claim = async (name: string, windowMs: number): Promise<boolean> => {
    try {
      const row = createLeaseRow(db, { name, holder: crypto.randomUUID(), ttlMs: windowMs })
      return (await inTime(row.take())) !== undefined
    } catch {
      // Without the database nodes agree over Redis, or each tells it by itself.
      return (await state.add(name, 1, windowMs)) === 1
    }
  }
  /** What was told may be told again. */
  const disclaim = async (name: string): Promise<void> => {
    await state.delete(name)
    await inTime(db.delete(db.tables.leases).where(eq(db.tables.leases.name, name))).catch(() => undefined)
  }
  const isHeard = (): boolean => options.get('alert_setting.webhook_url') !== '' || mailReceivers().length > 0

  const tell = async (alert: Alert): Promise<void> => {
    const windowMs = Math.max(1, options.get('alert_setting.repeat_minutes')) * 60_000
    const name = nameOf(alert)
    const now = clock.monotonic()
    const isForSomebody = isHeard()
    // What was only logged is told once there is somebody to tell.
    const heardName = isForSomebody ? name : loggedName(name)
    if ((quietUntil.get(heardName) ?? 0) > now) return
    for (const [other, untilMs] of quietUntil) if (untilMs <= now) quietUntil.delete(other)
    quietUntil.set(heardName, now + windowMs)
    if (isForSomebody && !(await claim(name, windowMs))) return
    log.warn('alert', { kind: alert.kind, key: alert.key, text: alert.text })
    if (!isForSomebody || (await deliver(alert))) return
    // Nobody heard it: whoever sees it next may try again.
    quietUntil.delete(heardName)
    await disclaim(name)
  }

  /** Only who saw it begin says that it is over. */
  const tellOver = async (alert: Alert): Promise<void> => {
    const name = nameOf(alert)
    const wasLogged = quietUntil.delete(loggedName(name))
    if (!quietUntil.delete(name) && !wasLogged) return
    log.info('an alert is over', { kind: alert.kind, key: alert.key, text: alert.text })
    await disclaim(name)
    if (isHeard() && (await claim(nameOf({ ...alert, kind: `over:${alert.kind}` }), OVER_MS))) await deliver(alert)
  }

  /** @returns whether somebody has it */
  const deliver = async (alert: Alert): Promise<boolean> => {
    const done = await Promise.all(WAYS.map((way) => attempt(way, alert)))
    return done.some((isDone) => isDone)
  }
  const attempt = async (way: Way, alert: Alert): Promise<boolean> => {
    for (let turn = 0; ; turn += 1) {
      try {
        return await send[way](alert)
      } catch (error) {
        const waitMs = RETRIES_MS[turn]
        if (waitMs === undefined) {
          log.error('an alert was not delivered', { way, kind: alert.kind, error: messageOf(error) })
          return false
        }
        await Bun.sleep(waitMs)
      }
    }
  }

  /** The signature lets a receiver know that it was us: HMAC-SHA256 of the body by the secret, as hex. */
  const webhook = async (alert: Alert): Promise<boolean> => {
    const url = options.get('alert_setting.webhook_url')
    if (url === '') return false
    const { kind, key, text } = alert
    const at = new Date(clock.now()).toISOString()
    const body = JSON.stringify({ kind, key, text, status: statusOf(alert), node, at })
    const secret = options.get('alert_setting.webhook_secret')
    const reply = await deps.fetch(url, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        ...(secret !== '' && {
          'x-headgate-signature': `sha256=${createHmac('sha256', secret).update(body).digest('hex')}`,
        }),
      },
      body,
      signal: AbortSignal.timeout(WEBHOOK_TIMEOUT_MS),
    })
    await reply.bytes()
    if (!reply.ok) throw new Error(`the webhook answered ${reply.status}`)
    return true
  }

  const mailReceivers = (): readonly string[] => {
    if (!mailer.isSet()) return []
    const addresses = options.get('alert_setting.email').split(',')
    return addresses.map((address) => address.trim()).filter((address) => address !== '')
  }

  const mail = async (alert: Alert): Promise<boolean> => {
    const to = mailReceivers()
    if (to.length === 0) return false
    await mailer.send({
      to,
      subject: `[${options.get('SystemName')}] ${alert.isOver ? 'resolved: ' : ''}${alert.kind}: ${alert.key}`,
      text: `${alert.text}\n\nReported by the node ${node} at ${new Date(clock.now()).toISOString()}.\n`,
    })
    return true
  }
  const send: Readonly<Record<Way, (alert: Alert) => Promise<boolean>>> = { webhook, mail }

  return {
    raise(alert) {
      // As the log does: what failed may have quoted an address with its password.
      const work = (alert.isOver ? tellOver : tell)({ ...alert, text: redactText(alert.text) })
        .catch((error: unknown) => log.error('an alert could not be raised', { kind: alert.kind, error }))
        .finally(() => underWay.delete(work))
      underWay.add(work)
    },
    trial: (text) =>
      Promise.all(
        WAYS.map(async (way) => {
          try {
            const isSet = await send[way]({ kind: 'test', key: node, text })
            return { way, problem: isSet ? '' : `${way}: not set` }
          } catch (error) {
            return { way, problem: `${way}: ${redactText(messageOf(error))}` }
          }
        }),
      ),
    async idle() {
      while (underWay.size > 0) await Promise.all(underWay)
    },
  }
}

async function inTime<T>(work: PromiseLike<T>): Promise<T> {
  const late = Promise.withResolvers<never>()
  const timer = setTimeout(() => late.reject(new Error(`no answer within ${CLAIM_MS} ms`)), CLAIM_MS)
  try {
    return await Promise.race([work, late.promise])
  } finally {
    clearTimeout(timer)
  }
}
