/** Options, call records, hourly usage, payments and asynchronous tasks: names and types are New API's. */
import type { Kit } from '../kit.ts'

/** The call records, alone: a log database holds only these and the ledger's own mark. */
export const defineLogTables = (k: Kit) => ({
  logs: k.table(
    'logs',
    {
      id: k.id(),
      userId: k.bigint('user_id'),
      /** Unix seconds */
      createdAt: k.bigint('created_at'),
      /** 1 top-up, 2 consume, 3 manage, 4 system, 5 error, 6 refund, 7 login */
      type: k.bigint('type'),
      content: k.longtext('content'),
      username: k.varchar('username', 191).default(''),
      tokenName: k.varchar('token_name', 191).default(''),
      modelName: k.varchar('model_name', 191).default(''),
      quota: k.bigint('quota').default(0),
      promptTokens: k.bigint('prompt_tokens').default(0),
      completionTokens: k.bigint('completion_tokens').default(0),
      /** seconds */
      useTime: k.bigint('use_time').default(0),
      isStream: k.bool('is_stream'),
      channelId: k.bigint('channel_id'),
      /** never written */
      channelName: k.longtext('channel_name'),
      tokenId: k.bigint('token_id').default(0),
      group: k.varchar('group', 191),
      ip: k.varchar('ip', 191).default(''),
      requestId: k.varchar('request_id', 64).default(''),
      upstreamRequestId: k.varchar('upstream_request_id', 128).default(''),
      /** JSON object or '' */
      other: k.longtext('other'),
    },
    // Each page of the log and its total are read from one index alone, however many rows there are: found by what is
    // asked for, in the order of time, with what is often asked beside it and, for sums, the quota at hand. Rows that must
    // be looked at one by one cost a hundred times as much, and all of these indexes together no more to write than New
    // API's, which begin in the same way, would: those are not made, and stay where they are.
    (t) => [
      // With the names, which may be asked for by a part.
      k.index('idx_logs_time').on(t.createdAt, t.id, t.type, t.modelName, t.username),
      // With the tokens, which are added up over the last minute of all.
      k
        .index('idx_logs_type_time')
        .on(t.type, t.createdAt, t.id, t.quota, t.modelName, t.promptTokens, t.completionTokens),
      k.index('idx_logs_user_time').on(t.userId, t.createdAt, t.id, t.type, t.quota, t.modelName),
      k.index('idx_logs_username_time').on(t.username, t.createdAt, t.id, t.type, t.quota, t.modelName),
      k.index('idx_logs_token_name_time').on(t.tokenName, t.createdAt, t.id, t.type, t.quota),
      k.index('idx_logs_model_time').on(t.modelName, t.createdAt, t.id, t.type, t.quota),
      k.index('idx_logs_channel_time').on(t.channelId, t.createdAt, t.id, t.type, t.quota),
      k.index('idx_logs_group_time').on(t.group, t.createdAt, t.id, t.type, t.quota),
      k.index('idx_logs_token_id').on(t.tokenId),
      k.index('idx_logs_request_id').on(t.requestId),
      k.index('idx_logs_upstream_request_id').on(t.upstreamRequestId),
    ],
  ),
})

export const defineUsageTables = (k: Kit) => ({
  options: k.table('options', {
    key: k.varchar('key', 191).primaryKey(),
    value: k.longtext('value'),
  }),

  /** Usage by hour; several rows of one logical key are summed by readers. */
  quotaData: k.table(
    'quota_data',
    {
      id: k.id(),
      userId: k.bigint('user_id'),
      username: k.varchar('username', 64).default(''),
      modelName: k.varchar('model_name', 64).default(''),
      /** Unix seconds, floored to the hour */
      createdAt: k.bigint('created_at'),
      useGroup: k.varchar('use_group', 64).default(''),
      tokenId: k.bigint('token_id').default(0),
      channelId: k.bigint('channel_id').default(0),
      nodeName: k.varchar('node_name', 64).default(''),
      /** what models count, prompt and completion */
      tokenUsed: k.bigint('token_used').default(0),
      count: k.bigint('count').default(0),
      quota: k.bigint('quota').default(0),
    },
    (t) => [
      k.index('idx_quota_data_user_id').on(t.userId),
      k.index('idx_qdt_model_user_name').on(t.modelName, t.username),
      k.index('idx_qdt_created_at').on(t.createdAt),
      k.index('idx_quota_data_use_group').on(t.useGroup),
      k.index('idx_quota_data_token_id').on(t.tokenId),
      k.index('idx_quota_data_channel_id').on(t.channelId),
      k.index('idx_quota_data_node_name').on(t.nodeName),
    ],
  ),

  topUps: k.table(
    'top_ups',
    {
      id: k.id(),
      userId: k.bigint('user_id'),
      amount: k.bigint('amount'),
      money: k.double('money'),
      tradeNo: k.varchar('trade_no', 255).unique('trade_no'),
      paymentMethod: k.varchar('payment_method', 50),
      paymentProvider: k.varchar('payment_provider', 50).default(''),
      createTime: k.bigint('create_time'),
      completeTime: k.bigint('complete_time'),
      /** `pending`, `success`, `failed`, `expired` */
      status: k.longtext('status'),
    },
    (t) => [k.index('idx_top_ups_user_id').on(t.userId), k.index('idx_top_ups_trade_no').on(t.tradeNo)],
  ),

  tasks: k.table(
    'tasks',
    {
      id: k.id(),
      createdAt: k.bigint('created_at'),
      updatedAt: k.bigint('updated_at'),
      taskId: k.varchar('task_id', 191),
      platform: k.varchar('platform', 30),
      userId: k.bigint('user_id'),
      group: k.varchar('group', 50),
      channelId: k.bigint('channel_id'),
      quota: k.bigint('quota'),
      action: k.varchar('action', 40),
      status: k.varchar('status', 20),
      failReason: k.longtext('fail_reason'),
      submitTime: k.bigint('submit_time'),
      startTime: k.bigint('start_time'),
      finishTime: k.bigint('finish_time'),
      progress: k.varchar('progress', 20),
      /** JSON text */
      properties: k.json('properties'),
      /** JSON text, never shown */
      privateData: k.json('private_data'),
      /** JSON text: the last upstream answer */
      data: k.json('data'),
    },
    (t) => [
      k.index('idx_tasks_created_at').on(t.createdAt),
      k.index('idx_tasks_task_id').on(t.taskId),
      k.index('idx_tasks_platform').on(t.platform),
      k.index('idx_tasks_user_id').on(t.userId),
      k.index('idx_tasks_channel_id').on(t.channelId),
      k.index('idx_tasks_action').on(t.action),
      k.index('idx_tasks_status').on(t.status),
      k.index('idx_tasks_submit_time').on(t.submitTime),
      k.index('idx_tasks_start_time').on(t.startTime),
      k.index('idx_tasks_finish_time').on(t.finishTime),
      k.index('idx_tasks_progress').on(t.progress),
    ],
  ),
})
