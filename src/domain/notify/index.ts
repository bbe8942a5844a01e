/** Tells operators what they should know, once for the whole cluster. */
export { type Alert, type Alerts, createAlerts, pruneAlerts } from './alerts.ts'
export { createMailer, type Mailer } from './mail.ts'
