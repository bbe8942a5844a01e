/**
 * The trail of what people did: rows of type 3 (administration) and 7 (log-in) in the log database. Credits have rows of
 * their own, written with the money (billing). Never holds a secret: callers name what changed, not to which secret value.
 */
import type { Db } from '../db/index.ts'
import type { Clock } from '../lib/clock.ts'
import type { Log } from '../lib/log.ts'
import type { Actor } from './accounts/index.ts'

/** `<resource>.<verb>`, such as `channel.create`. */
export type AuditAction = `${string}.${string}` | 'generic'

export interface AuditRow {
  readonly actor: Actor
  readonly action: AuditAction
  readonly params: Readonly<Record<string, unknown>>
  readonly ip: string
  readonly requestId: string
  /** Of a generic note: what was called and how it ended. */
  readonly auditInfo?: Readonly<Record<string, unknown>>
}

export interface LoginRow {
  readonly userId: number
  readonly username: string
  readonly method: string
  readonly ip: string
  readonly userAgent: string
  readonly requestId: string
}

export interface Audit {
  record(row: AuditRow): Promise<void>
  login(row: LoginRow): Promise<void>
}

const LOG_TYPE = { manage: 3, login: 7 } as const

/** Both writes are best effort: the log database may be away while the main one has taken the change. */
export function createAudit(deps: { readonly logDb: Db; readonly clock: Clock; readonly log: Log }): Audit {
  const { logDb, clock, log } = deps
  const write = async (row: {
    readonly type: number
    readonly userId: number
    readonly username: string
    readonly content: string
    readonly ip: string
    readonly requestId: string
    readonly other: Readonly<Record<string, unknown>>
  }): Promise<void> => {
    try {
      await logDb.insert(logDb.tables.logs).values({
        type: row.type,
        userId: row.userId,
        username: row.username,
        createdAt: Math.floor(clock.now() / 1000),
        content: row.content,
        ip: row.ip,
        requestId: row.requestId,
        isStream: false,
        other: JSON.stringify(row.other),
      })
    } catch (error) {
      log.error('an audit row was not written', { action: row.content, userId: row.userId, error })
    }
  }
  return {
    record: ({ actor, action, params, ip, requestId, auditInfo }) =>
      write({
        type: LOG_TYPE.manage,
        userId: actor.userId,
        username: actor.username,
        content: action,
        ip,
        requestId,
        other: {
          op: { action, params },
          admin_info: {
            admin_id: actor.userId,
            admin_username: actor.username,
            admin_role: actor.role,
            auth_method: actor.authMethod,
          },
          ...(auditInfo && { audit_info: auditInfo }),
        },
      }),
    login: ({ userId, username, method, ip, userAgent, requestId }) =>
      write({
        type: LOG_TYPE.login,
        userId,
        username,
        content: 'login',
        ip,
        requestId,
        other: { login_method: method, user_agent: userAgent, op: { action: 'login', params: { method } } },
      }),
  }
}
