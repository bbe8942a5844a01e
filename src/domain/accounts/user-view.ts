/** How a user is shown: to administrators, and to the user. The password hash and every token stay out of both. */
import { limitView } from '../limits/index.ts'
import { channelPermissions, ROLE } from './actor.ts'
import type { UserRow } from './user-rules.ts'
import { parseUserSetting } from './user-setting.ts'

/** Fields both views share. @param quota what people see: balance and parked parts */
const common = (user: UserRow, quota: number) => ({
  id: user.id,
  username: user.username ?? '',
  display_name: user.displayName ?? '',
  role: user.role ?? 0,
  status: user.status ?? 0,
  email: user.email ?? '',
  github_id: user.githubId ?? '',
  discord_id: user.discordId ?? '',
  oidc_id: user.oidcId ?? '',
  wechat_id: user.wechatId ?? '',
  telegram_id: user.telegramId ?? '',
  linux_do_id: user.linuxDoId ?? '',
  group: user.group ?? '',
  quota,
  used_quota: user.usedQuota ?? 0,
  request_count: user.requestCount ?? 0,
  aff_code: user.affCode ?? '',
  aff_count: user.affCount ?? 0,
  aff_quota: user.affQuota ?? 0,
  aff_history_quota: user.affHistory ?? 0,
  inviter_id: user.inviterId ?? 0,
  setting: user.setting ?? '',
  stripe_customer: user.stripeCustomer ?? '',
  ...limitView(user),
})

/** What administrators see. */
export const userView = (user: UserRow, quota: number) => ({
  ...common(user, quota),
  password: '' as const,
  original_password: '' as const,
  verification_code: '' as const,
  DeletedAt: user.deletedAt ? user.deletedAt.toISOString() : null,
  ...(user.remark ? { remark: user.remark } : {}),
  created_at: user.createdAt ?? 0,
  last_login_at: user.lastLoginAt ?? 0,
})
export type UserView = ReturnType<typeof userView>

/** What people see of themselves. */
export const selfView = (user: UserRow, quota: number) => {
  const role = user.role ?? 0
  return {
    ...common(user, quota),
    sidebar_modules: parseUserSetting(user.setting).sidebar_modules ?? '',
    permissions: {
      sidebar_settings: role < ROLE.root,
      sidebar_modules: sidebarLimits(role),
      admin_permissions: { channel: channelPermissions(role) },
    },
  }
}
export type SelfView = ReturnType<typeof selfView>

/** Parts of the side bar that a role cannot have. */
function sidebarLimits(role: number): Readonly<Record<string, unknown>> {
  if (role >= ROLE.root) return {}
  return role >= ROLE.admin ? { admin: { setting: false } } : { admin: false }
}
