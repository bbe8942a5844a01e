/** Work that root asks for and that a master does: requests, and how far they are. */
import { Elysia, type Static, t } from 'elysia'
import { ROLE } from '../domain/accounts/index.ts'
import type { SystemTask, SystemTasks } from '../domain/cluster/index.ts'
import { GatewayError } from '../errors.ts'
import { type AdminHttp, envelope, ok } from './http.ts'

const taskJson = t.Object({
  id: t.Integer(),
  task_id: t.String(),
  type: t.String(),
  status: t.String({ description: 'pending, running, succeeded or failed' }),
  active_key: t.Optional(t.String()),
  payload: t.Any(),
  state: t.Any({ description: 'How far it is' }),
  result: t.Any(),
  error: t.String(),
  locked_by: t.String(),
  created_at: t.Integer({ description: 'Unix seconds' }),
  updated_at: t.Integer(),
})

const DEFAULT_LIMIT = 20
const MOST_LIMIT = 100
/** A request that waits for its task answers after this with how far it is. */
const WAIT_MS = 30_000
const LOOK_MS = 200

const LOG_CLEAN_UP = 'log_cleanup'

export interface SystemTaskDeps {
  readonly tasks: Pick<SystemTasks, 'request' | 'list' | 'current' | 'find'>
  readonly http: AdminHttp
  /** Rows that a log clean-up deletes with one statement. */
  readonly batchSize: number
  readonly clock: { now(): number; monotonic(): number }
}

/** @throws GatewayError 409 while one of the type is live */
async function requestTask(
  tasks: Pick<SystemTasks, 'request' | 'current'>,
  type: string,
  payload: unknown,
): Promise<SystemTask> {
  const task = await tasks.request(type, payload)
  if (task) return task
  throw new GatewayError('task_is_live', { params: { id: (await tasks.current(type))?.taskId ?? type } })
}

export const systemTaskRoutes = ({ tasks, http, batchSize, clock }: SystemTaskDeps) => {
  const requestCleanUp = async (query: { readonly target_timestamp?: string }): Promise<SystemTask> => {
    const target = Number.parseInt(query.target_timestamp ?? '', 10)
    const isPast = Number.isSafeInteger(target) && target > 0 && target <= Math.floor(clock.now() / 1000)
    if (!isPast) throw new GatewayError('log_clean_up_time')
    return requestTask(tasks, LOG_CLEAN_UP, { target_timestamp: target, batch_size: batchSize })
  }
  /** The task when it has ended, or as far as it is after a while. */
  const untilEnded = async (task: SystemTask): Promise<SystemTask> => {
    const until = clock.monotonic() + WAIT_MS
    for (;;) {
      const now = (await tasks.find(task.taskId)) ?? task
      if (now.activeKey === undefined || clock.monotonic() >= until) return now
      await Bun.sleep(LOOK_MS)
    }
  }
  const query = t.Object({ target_timestamp: t.Optional(t.String({ description: 'Unix seconds' })) })

  const resource = new Elysia({ prefix: '/api/system-task', detail: { tags: ['operation'] } })
    .post(
      '/log-cleanup',
      async ({ request, query }) => {
        await http.actor(request, ROLE.root)
        return ok(viewOf(await requestCleanUp(query)))
      },
      {
        query,
        response: envelope(taskJson),
        detail: { summary: 'Ask for the deletion of call records older than a moment' },
      },
    )
    .get(
      '/list',
      async ({ request, query }) => {
        await http.actor(request, ROLE.root)
        const asked = Number.parseInt(query.limit ?? '', 10)
        const limit = asked > 0 ? Math.min(asked, MOST_LIMIT) : DEFAULT_LIMIT
        return ok((await tasks.list(limit)).map(viewOf))
      },
      {
        query: t.Object({ limit: t.Optional(t.String({ description: '20 if not given, at most 100' })) }),
        response: envelope(t.Array(taskJson)),
        detail: { summary: 'Tasks, newest first' },
      },
    )
    .get(
      '/current',
      async ({ request, query }) => {
        await http.actor(request, ROLE.root)
        const task = await tasks.current(query.type ?? '')
        return ok(task ? viewOf(task) : null)
      },
      {
        query: t.Object({ type: t.Optional(t.String()) }),
        response: envelope(t.Union([taskJson, t.Null()])),
        detail: { summary: 'The task of a type that is waiting or running' },
      },
    )
    .get(
      '/:task_id',
      async ({ request, params }) => {
        await http.actor(request, ROLE.root)
        const task = await tasks.find(params.task_id)
        if (!task) throw new GatewayError('task_not_found')
        return ok(viewOf(task))
      },
      {
        params: t.Object({ task_id: t.String() }),
        response: envelope(taskJson),
        detail: { summary: 'One task' },
      },
    )
  // Older tools delete by this one and expect the number of rows.
  return new Elysia().use(resource).delete(
    '/api/log/',
    async ({ request, query }) => {
      await http.actor(request, ROLE.root)
      const task = await untilEnded(await requestCleanUp(query))
      if (task.status === 'failed') throw new GatewayError('internal_error', { detail: { error: task.error } })
      return ok(Number(fieldOf(task.result, 'deleted_count') ?? fieldOf(task.state, 'processed') ?? 0))
    },
    {
      query,
      response: envelope(t.Integer()),
      detail: {
        summary: 'Delete call records older than a moment; waits up to 30 s, what remains goes on in the background',
        tags: ['logs'],
      },
    },
  )
}

const fieldOf = (value: unknown, name: string): unknown =>
  typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[name] : undefined

const viewOf = (task: SystemTask): Static<typeof taskJson> => ({
  id: task.id,
  task_id: task.taskId,
  type: task.type,
  status: task.status,
  ...(task.activeKey !== undefined && { active_key: task.activeKey }),
  payload: task.payload,
  state: task.state,
  result: task.result,
  error: task.error,
  locked_by: task.lockedBy,
  created_at: task.createdAtSec,
  updated_at: task.updatedAtSec,
})
