/**
 * The gateway's own tables: the ledger's and the cluster's. Integers for time and money with the unit in the name,
 * JSON as text. The schema sync creates them in a binary collation of utf8mb4, so their keys compare exactly.
 */
import type { Kit } from '../kit.ts'

/** What of the ledger stands beside the call records, also in a log database of its own. */
export const defineLedgerMarkTables = (k: Kit) => ({
  /** How far an instance's charges are applied. Rows are never deleted. */
  ledgerApplied: k.table(
    'ledger_applied',
    {
      instanceId: k.varchar('instance_id', 64).notNull(),
      /** `main` or `log` */
      part: k.varchar('part', 16).notNull(),
      /** number of the last charge applied, from 1 */
      seq: k.bigint('seq').notNull().default(0),
      /** request id of that charge */
      last: k.varchar('last', 64).notNull().default(''),
      appliedAtMs: k.bigint('applied_at_ms').notNull().default(0),
    },
    (t) => [k.primaryKey({ columns: [t.instanceId, t.part] })],
  ),

  /** What a database refused for its content. */
  ledgerQuarantine: k.table(
    'ledger_quarantine',
    {
      id: k.id(),
      requestId: k.varchar('request_id', 64).notNull(),
      /** `main` or `log` */
      part: k.varchar('part', 16).notNull(),
      /** the charge as ASCII JSON */
      charge: k.longtext('charge').notNull(),
      error: k.text('error').notNull(),
      createdAtMs: k.bigint('created_at_ms').notNull(),
    },
    (t) => [k.index('idx_ledger_quarantine_request_id').on(t.requestId)],
  ),
})

export const defineOwnTables = (k: Kit) => ({
  /** Amounts moved from an account's balance to one instance. */
  quotaAllotments: k.table(
    'quota_allotments',
    {
      instanceId: k.varchar('instance_id', 64).notNull(),
      /** `<kind>:<id>`, e.g. `u:7` */
      account: k.varchar('account', 64).notNull(),
      /** quota units, never below 0 */
      amount: k.bigint('amount').notNull().default(0),
      version: k.bigint('version').notNull().default(0),
      recalled: k.bigint('recalled').notNull().default(0),
      answered: k.bigint('answered').notNull().default(0),
      updatedAtMs: k.bigint('updated_at_ms').notNull().default(0),
    },
    (t) => [
      k.primaryKey({ columns: [t.instanceId, t.account] }),
      k.index('idx_quota_allotments_account').on(t.account),
    ],
  ),

  /** Log rows of credits and edits on their way to a separate log database. */
  ledgerLogQueue: k.table(
    'ledger_log_queue',
    {
      id: k.id(),
      requestId: k.varchar('request_id', 64).notNull(),
      /** the log row as JSON */
      row: k.longtext('row').notNull(),
      createdAtMs: k.bigint('created_at_ms').notNull(),
    },
    (t) => [k.index('idx_ledger_log_queue_request_id').on(t.requestId)],
  ),

  /** One row for each tenure of a worker. */
  clusterInstances: k.table(
    'cluster_instances',
    {
      id: k.varchar('id', 64).primaryKey(),
      node: k.varchar('node', 128).notNull().default(''),
      worker: k.bigint('worker').notNull().default(0),
      role: k.varchar('role', 16).notNull().default(''),
      version: k.varchar('version', 64).notNull().default(''),
      address: k.varchar('address', 255).notNull().default(''),
      startedAtMs: k.bigint('started_at_ms').notNull().default(0),
      seenAtMs: k.bigint('seen_at_ms').notNull().default(0),
      /** JSON object */
      info: k.longtext('info'),
      /** the instance's own counter */
      beat: k.bigint('beat').notNull().default(0),
      /** `live`, `draining`, `gone`, `reclaimed` */
      state: k.varchar('state', 16).notNull().default('live'),
      /** what the worker tells of itself, JSON object; written beside the beat */
      status: k.longtext('status'),
      /** when, by the database's time */
      statusAtMs: k.bigint('status_at_ms').notNull().default(0),
    },
    (t) => [k.index('idx_cluster_instances_state').on(t.state), k.index('idx_cluster_instances_node').on(t.node)],
  ),

  topicVersions: k.table('topic_versions', {
    topic: k.varchar('topic', 64).primaryKey(),
    version: k.bigint('version').notNull().default(0),
  }),

  /** What the last changes of a topic were about: ids of rows. Of a version that has none here, it may be anything. */
  topicChanges: k.table(
    'topic_changes',
    {
      topic: k.varchar('topic', 64).notNull(),
      version: k.bigint('version').notNull(),
      item: k.bigint('item').notNull(),
    },
    (t) => [k.primaryKey({ columns: [t.topic, t.version, t.item] })],
  ),

  /** Who may do what only one may do at a time; judged by the database's time. */
  leases: k.table('leases', {
    name: k.varchar('name', 64).primaryKey(),
    /** '' = free */
    holder: k.varchar('holder', 128).notNull().default(''),
    /** fencing number: rises each time the lease changes hands */
    fencing: k.bigint('fencing').notNull().default(0),
    expiresAtMs: k.bigint('expires_at_ms').notNull().default(0),
    /** From here on only for jobs: how the last run went, and not before when the next may begin. Database time. */
    dueAtMs: k.bigint('due_at_ms').notNull().default(0),
    startedAtMs: k.bigint('started_at_ms').notNull().default(0),
    endedAtMs: k.bigint('ended_at_ms').notNull().default(0),
    goodAtMs: k.bigint('good_at_ms').notNull().default(0),
    durationMs: k.bigint('duration_ms').notNull().default(0),
    /** who ran it last */
    ranOn: k.varchar('ran_on', 128).notNull().default(''),
    /** runs that ended well, over all nodes */
    runs: k.bigint('runs').notNull().default(0),
    /** runs that failed since the last good one */
    failures: k.bigint('failures').notNull().default(0),
    /** '' after a good run */
    lastError: k.varchar('last_error', 512).notNull().default(''),
  }),

  /** Channels, and keys of channels with several, that calls keep away from for a while; judged by the database's time. */
  channelBreakers: k.table(
    'channel_breakers',
    {
      /** `<channel id>`, or `<channel id>:<index of the key>` */
      subject: k.varchar('subject', 64).primaryKey(),
      channelId: k.bigint('channel_id').notNull(),
      /** `open` or `closed` */
      state: k.varchar('state', 16).notNull(),
      /** rises with each change of the state */
      version: k.bigint('version').notNull().default(0),
      /** how often it opened in a row: each time for longer */
      level: k.bigint('level').notNull().default(0),
      /** no call before this */
      untilMs: k.bigint('until_ms').notNull().default(0),
      changedAtMs: k.bigint('changed_at_ms').notNull().default(0),
      /** who may try one call, and until when the others wait for the outcome */
      probeBy: k.varchar('probe_by', 64).notNull().default(''),
      probeUntilMs: k.bigint('probe_until_ms').notNull().default(0),
    },
    (t) => [k.index('idx_channel_breakers_channel_id').on(t.channelId)],
  ),

  /** Numbered data steps of the schema sync that are done. */
  schemaSteps: k.table('schema_steps', {
    step: k.bigint('step').primaryKey(),
    name: k.varchar('name', 128).notNull().default(''),
    appliedAtMs: k.bigint('applied_at_ms').notNull(),
  }),

  /** Facts about the whole cluster, e.g. `cluster_id`. */
  clusterMeta: k.table('cluster_meta', {
    key: k.varchar('key', 128).primaryKey(),
    value: k.longtext('value').notNull(),
  }),
})
