/** The list of background jobs, and what runs them. */
export { buildIndexesJob } from './build-indexes.ts'
export { cleanSessionsJob } from './clean-sessions.ts'
export { deliverCreditLogsJob } from './deliver-credit-logs.ts'
export type { Job } from './job.ts'
export { createJobRunner, type JobReport, type JobRunner } from './runner.ts'
export { syncLogSchemaJob } from './sync-log-schema.ts'
