/** Every table, and which of them a database of its own for call records holds. */
import type { Kit } from '../kit.ts'
import { defineAccountTables } from './accounts.ts'
import { defineChannelTables } from './channels.ts'
import { defineLedgerMarkTables, defineOwnTables } from './own.ts'
import { defineSystemTables } from './system.ts'
import { defineLogTables, defineUsageTables } from './usage.ts'

export const defineTables = (k: Kit) => ({
  ...defineAccountTables(k),
  ...defineChannelTables(k),
  ...defineUsageTables(k),
  ...defineSystemTables(k),
  ...defineLogTables(k),
  ...defineLedgerMarkTables(k),
  ...defineOwnTables(k),
})

export type Tables = ReturnType<typeof defineTables>
export type TableName = keyof Tables

/** Tables of a separate log database: the call records, the ledger's marks of what it applied there, and leases. */
export const LOG_TABLES: readonly TableName[] = ['logs', 'ledgerApplied', 'ledgerQuarantine', 'leases']

/** Tables that are ours and not New API's. */
export const OWN_TABLES: ReadonlySet<TableName> = new Set<TableName>([
  'ledgerApplied',
  'ledgerQuarantine',
  'quotaAllotments',
  'ledgerLogQueue',
  'clusterInstances',
  'topicVersions',
  'topicChanges',
  'leases',
  'channelBreakers',
  'schemaSteps',
  'clusterMeta',
])
