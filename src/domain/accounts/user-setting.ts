/** The JSON text `users.setting`: read leniently, written without losing what we do not know. */
import { type Language, languageOf } from '../../lib/headers.ts'
import { ROLE } from './actor.ts'

/** Known keys, names as stored; any key may be absent, unknown ones are kept. */
export interface UserSetting {
  readonly notify_type?: string
  readonly quota_warning_threshold?: number
  readonly webhook_url?: string
  readonly webhook_secret?: string
  readonly notification_email?: string
  readonly bark_url?: string
  readonly gotify_url?: string
  readonly gotify_token?: string
  readonly gotify_priority?: number
  readonly upstream_model_update_notify_enabled?: boolean
  readonly accept_unset_model_ratio_model?: boolean
  readonly record_ip_log?: boolean
  readonly sidebar_modules?: string
  readonly billing_preference?: string
  readonly language?: string
}

export function parseUserSetting(text: string | null): UserSetting {
  if (!text) return {}
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as UserSetting) : {}
  } catch {
    // A setting that cannot be read is no setting: people must be able to log in and mend it.
    return {}
  }
}

/** @returns the stored text with `patch` laid over it */
export const patchUserSetting = (text: string | null, patch: UserSetting): string =>
  JSON.stringify({ ...parseUserSetting(text), ...patch })

export const settingLanguage = (setting: UserSetting): Language | undefined =>
  typeof setting.language === 'string' ? languageOf(setting.language) : undefined

/** The side bar of a new account, as the JSON text that stands in its setting. */
export function defaultSidebar(role: number): string {
  return JSON.stringify({
    chat: { enabled: true, playground: true, chat: true },
    console: { enabled: true, detail: true, token: true, log: true, midjourney: true, task: true },
    personal: { enabled: true, topup: true, personal: true },
    ...(role >= ROLE.admin && {
      admin: { enabled: true, channel: true, models: true, redemption: true, user: true, setting: role >= ROLE.root },
    }),
  })
}
