/** Options of what operators are told. */
import { text, whole } from '../option.ts'

export const alertOptions = [
  text('alert_setting.webhook_url', '', 'Alerts are posted there as JSON'),
  text('alert_setting.webhook_secret', '', 'Signs these posts: HMAC-SHA256 in X-Headgate-Signature', {
    isSecret: true,
  }),
  text('alert_setting.email', '', 'Alerts are mailed to these addresses, split by commas'),
  whole('alert_setting.repeat_minutes', 60, 'What is still so after this many minutes is told again'),
] as const
