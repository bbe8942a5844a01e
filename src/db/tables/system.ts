/** Work asked for by people, and the nodes as people see them: names, types and units (Unix seconds) are New API's. */
import type { Kit } from '../kit.ts'

export const defineSystemTables = (k: Kit) => ({
  systemTasks: k.table(
    'system_tasks',
    {
      id: k.id(),
      /** `systask_` and 32 characters */
      taskId: k.varchar('task_id', 64),
      type: k.varchar('type', 64),
      /** `pending`, `running`, `succeeded`, `failed` */
      status: k.varchar('status', 32),
      /** the type while pending or running, else NULL: so at most one task of a type is live */
      activeKey: k.varchar('active_key', 64),
      /** JSON text, like state and result */
      payload: k.text('payload'),
      state: k.text('state'),
      result: k.text('result'),
      error: k.text('error'),
      lockedBy: k.varchar('locked_by', 128),
      createdAt: k.bigint('created_at'),
      updatedAt: k.bigint('updated_at'),
    },
    (t) => [
      k.uniqueIndex('idx_system_tasks_task_id').on(t.taskId),
      k.index('idx_system_tasks_type').on(t.type),
      k.index('idx_system_tasks_status').on(t.status),
      k.uniqueIndex('idx_system_tasks_active_key').on(t.activeKey),
      k.index('idx_system_tasks_locked_by').on(t.lockedBy),
      k.index('idx_system_tasks_created_at').on(t.createdAt),
      k.index('idx_system_tasks_updated_at').on(t.updatedAt),
    ],
  ),

  /** Who works on the live task of a type, by the database's time. */
  systemTaskLocks: k.table(
    'system_task_locks',
    {
      type: k.varchar('type', 64).primaryKey(),
      taskId: k.varchar('task_id', 64),
      lockedBy: k.varchar('locked_by', 128),
      lockedUntil: k.bigint('locked_until'),
      updatedAt: k.bigint('updated_at'),
    },
    (t) => [
      k.index('idx_system_task_locks_task_id').on(t.taskId),
      k.index('idx_system_task_locks_locked_by').on(t.lockedBy),
      k.index('idx_system_task_locks_locked_until').on(t.lockedUntil),
      k.index('idx_system_task_locks_updated_at').on(t.updatedAt),
    ],
  ),

  systemInstances: k.table(
    'system_instances',
    {
      nodeName: k.varchar('node_name', 128).primaryKey(),
      /** JSON object */
      info: k.text('info'),
      startedAt: k.bigint('started_at'),
      lastSeenAt: k.bigint('last_seen_at'),
      createdAt: k.bigint('created_at'),
      updatedAt: k.bigint('updated_at'),
    },
    (t) => [
      k.index('idx_system_instances_started_at').on(t.startedAt),
      k.index('idx_system_instances_last_seen_at').on(t.lastSeenAt),
      k.index('idx_system_instances_created_at').on(t.createdAt),
      k.index('idx_system_instances_updated_at').on(t.updatedAt),
    ],
  ),
})
