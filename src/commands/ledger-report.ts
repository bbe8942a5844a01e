/** What the ledger's tables say about a database that was restored, or whose nodes are gone, for people. */
import { gt, inArray } from 'drizzle-orm'
import { type Db, findMissing } from '../db/index.ts'
import { WORKING_STATES } from '../domain/cluster/index.ts'

export interface LedgerReport {
  /** Quota that instances had taken from balances, in units, and how many accounts it belongs to. */
  readonly parked: { readonly amount: number; readonly accounts: number }
  /** Instances of which the money of some charges is here and their log rows are not, or the other way round. */
  readonly uneven: readonly {
    readonly instanceId: string
    readonly isLive: boolean
    readonly charges: number
    readonly lacks: 'log rows' | 'money'
    /** Request id of the last charge that has only one part. */
    readonly lastRequestId: string
  }[]
}

/** @param logDb where the log rows are. @returns undefined for a database that is not ours yet */
export async function readLedgerReport(db: Db, logDb: Db = db): Promise<LedgerReport | undefined> {
  if ((await findMissing(db)).length > 0 || (await findMissing(logDb)).length > 0) return undefined
  const { quotaAllotments, ledgerApplied, clusterInstances } = db.tables
  const parked = await db
    .select({ account: quotaAllotments.account, amount: quotaAllotments.amount })
    .from(quotaAllotments)
    .where(gt(quotaAllotments.amount, 0))
  const live = await db
    .select({ id: clusterInstances.id })
    .from(clusterInstances)
    .where(inArray(clusterInstances.state, [...WORKING_STATES]))
  const isLive = new Set(live.map(({ id }) => id))
  const marks = await db.select().from(ledgerApplied)
  const logMarks = logDb === db ? marks : await logDb.select().from(logDb.tables.ledgerApplied)
  const logOf = new Map(logMarks.filter(({ part }) => part === 'log').map((mark) => [mark.instanceId, mark]))
  return {
    parked: {
      amount: parked.reduce((sum, { amount }) => sum + amount, 0),
      accounts: new Set(parked.map(({ account }) => account)).size,
    },
    uneven: marks
      .filter(({ part }) => part === 'main')
      .flatMap(({ instanceId, seq, last }) => {
        const log = logOf.get(instanceId)
        const ahead = seq - (log?.seq ?? 0)
        if (ahead === 0) return []
        return [
          {
            instanceId,
            isLive: isLive.has(instanceId),
            charges: Math.abs(ahead),
            lacks: ahead > 0 ? ('log rows' as const) : ('money' as const),
            lastRequestId: ahead > 0 ? last : (log?.last ?? ''),
          },
        ]
      }),
  }
}

/** One line for each instance whose charges are not whole. */
export const unevenLines = (uneven: LedgerReport['uneven']): readonly string[] =>
  uneven.map(
    ({ instanceId, charges, lacks, lastRequestId }) =>
      `${charges} ${charges === 1 ? 'charge' : 'charges'} of the instance ${instanceId}, the last with the request id ${lastRequestId}, ${charges === 1 ? 'has' : 'have'} no ${lacks} here`,
  )
