/** Deletes log-in sessions that ended long ago. What is gone is gone, so it needs no fence. */
import type { Sessions } from '../domain/accounts/index.ts'
import type { Job } from './job.ts'

export const cleanSessionsJob = (sessions: Pick<Sessions, 'sweep'>): Job => ({
  name: 'clean-sessions',
  everyMs: 3_600_000,
  on: 'master',
  timeoutMs: 60_000,
  run: async () => void (await sessions.sweep()),
})
