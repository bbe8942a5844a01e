/** Who performs an administrative action, and what the roles may do. */
import type { Language } from '../../lib/headers.ts'

/** Values of `users.role`. */
export const ROLE = { user: 1, admin: 10, root: 100 } as const
export type Role = (typeof ROLE)[keyof typeof ROLE]

/** Values of `users.status`. */
export const USER_STATUS = { enabled: 1, disabled: 2 } as const

export interface Actor {
  readonly userId: number
  readonly username: string
  readonly role: number
  readonly group: string
  /** A login session, or the personal access token, which may not change how one logs in. */
  readonly authMethod: 'session' | 'pat'
  readonly sid?: string
  /** The user's own choice; undefined leaves it to the request. */
  readonly language?: Language
}

export interface ChannelPermissions {
  readonly read: boolean
  readonly operate: boolean
  readonly write: boolean
  readonly sensitive_write: boolean
  readonly secret_view: boolean
}

/** What a role may do with channels. Writing or reading upstream secrets is for root. */
export function channelPermissions(role: number): ChannelPermissions {
  const isAdmin = role >= ROLE.admin
  const isRoot = role >= ROLE.root
  return { read: isAdmin, operate: isAdmin, write: isAdmin, sensitive_write: isRoot, secret_view: isRoot }
}

/** May `actor` manage an account of `role`? Root manages everyone, an administrator only lower roles. */
export const mayManage = (actor: { readonly role: number }, role: number): boolean =>
  actor.role >= ROLE.root || actor.role > role
