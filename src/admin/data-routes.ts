/** The sums behind the dashboard: by model and hour, by user and hour, and where quota flowed. */
import { Elysia, type Static, t } from 'elysia'
import type { Flow, HourlyFilter, HourlyReads, ModelHour, UserHour } from '../domain/usage/index.ts'
import { GatewayError } from '../errors.ts'
import { type AdminHttp, envelope, ok } from './http.ts'

const rangeFields = { start_timestamp: t.Optional(t.String()), end_timestamp: t.Optional(t.String()) }
const rangeQuery = t.Object(rangeFields)
const userRangeQuery = t.Object({ ...rangeFields, username: t.Optional(t.String()) })

/** A row of the stored table; what a sum runs over is 0 or empty. */
const hourJson = t.Object({
  id: t.Integer(),
  user_id: t.Integer(),
  username: t.String(),
  model_name: t.String(),
  created_at: t.Integer(),
  use_group: t.String(),
  token_id: t.Integer(),
  channel_id: t.Integer(),
  node_name: t.String(),
  token_used: t.Integer(),
  count: t.Integer(),
  quota: t.Integer(),
})
const flowJson = t.Object({
  user_id: t.Optional(t.Integer()),
  username: t.Optional(t.String()),
  use_group: t.String(),
  model_name: t.String(),
  channel_id: t.Optional(t.Integer()),
  channel_name: t.Optional(t.String()),
  node_name: t.Optional(t.String()),
  token_id: t.Optional(t.Integer()),
  token_name: t.Optional(t.String()),
  token_used: t.Integer(),
  count: t.Integer(),
  quota: t.Integer(),
})
type FlowJson = Static<typeof flowJson>

const [USER, ADMIN, ROOT] = [1, 10, 100] as const
const MAX_DAYS = 30
const DAY_SEC = 86_400

export const dataRoutes = (deps: { readonly hourly: HourlyReads; readonly http: AdminHttp }) => {
  const { hourly, http } = deps
  return new Elysia({ prefix: '/api/data', detail: { tags: ['dashboard'] } })
    .get(
      '/',
      async ({ request, query }) => {
        await http.actor(request, ADMIN)
        return ok((await hourly.byModel({ ...rangeOf(query), username: query.username })).map(hourView))
      },
      { query: userRangeQuery, response: envelope(t.Array(hourJson)), detail: { summary: 'Usage by model and hour' } },
    )
    .get(
      '/users',
      async ({ request, query }) => {
        await http.actor(request, ADMIN)
        return ok((await hourly.byUser(rangeOf(query))).map(hourView))
      },
      { query: rangeQuery, response: envelope(t.Array(hourJson)), detail: { summary: 'Usage by user and hour' } },
    )
    .get(
      '/self',
      async ({ request, query }) => {
        const { userId } = await http.actor(request, USER)
        const range = withinDays(rangeOf(query))
        return ok((await hourly.byModel({ ...range, userId })).map(hourView))
      },
      { query: rangeQuery, response: envelope(t.Array(hourJson)), detail: { summary: 'Own usage by model and hour' } },
    )
    .get(
      '/flow',
      async ({ request, query }) => {
        const { role } = await http.actor(request, ADMIN)
        const isRoot = role >= ROOT
        const filter = { ...closed(rangeOf(query)), username: query.username }
        const flows = await hourly.flows(filter, [
          'user',
          'group',
          'model',
          'channel',
          ...(isRoot ? ROOT_DIMENSIONS : []),
        ])
        return ok(
          flows.map((flow) => ({
            user_id: flow.userId,
            username: flow.username,
            channel_id: flow.channelId,
            channel_name: flow.channelName,
            ...(isRoot ? { node_name: flow.nodeName, ...apiKeyView(flow) } : {}),
            ...flowView(flow),
          })),
        )
      },
      { query: userRangeQuery, response: envelope(t.Array(flowJson)), detail: { summary: 'Where quota went' } },
    )
    .get(
      '/flow/self',
      async ({ request, query }) => {
        const { userId } = await http.actor(request, USER)
        const range = withinDays(closed(rangeOf(query)))
        const flows = await hourly.flows({ ...range, userId }, ['group', 'model', 'apiKey'])
        return ok(flows.map((flow) => ({ ...apiKeyView(flow), ...flowView(flow) })))
      },
      { query: rangeQuery, response: envelope(t.Array(flowJson)), detail: { summary: 'Where one’s own quota went' } },
    )
}

const ROOT_DIMENSIONS = ['node', 'apiKey'] as const

const rangeOf = (query: Static<typeof rangeQuery>): HourlyFilter => ({
  fromSec: Number.parseInt(query.start_timestamp ?? '', 10) || 0,
  toSec: Number.parseInt(query.end_timestamp ?? '', 10) || 0,
})

/** @throws GatewayError time_range_invalid */
function closed(range: HourlyFilter): HourlyFilter {
  if (range.fromSec <= 0 || range.toSec <= 0)
    throw new GatewayError('time_range_invalid', { params: { days: MAX_DAYS } })
  return range
}

/** Users may ask for a month at most. @throws GatewayError time_range_invalid */
function withinDays(range: HourlyFilter): HourlyFilter {
  if (range.toSec - range.fromSec > MAX_DAYS * DAY_SEC) {
    throw new GatewayError('time_range_invalid', { params: { days: MAX_DAYS } })
  }
  return range
}

const hourView = (row: ModelHour | UserHour): Static<typeof hourJson> => ({
  id: 0,
  user_id: 'userId' in row ? row.userId : 0,
  username: row.username,
  model_name: 'modelName' in row ? row.modelName : '',
  created_at: row.createdAtSec,
  use_group: '',
  token_id: 0,
  channel_id: 0,
  node_name: '',
  token_used: row.tokenUsed,
  count: row.count,
  quota: row.quota,
})

const flowView = (flow: Flow): FlowJson => ({
  use_group: flow.useGroup,
  model_name: flow.modelName,
  token_used: flow.tokenUsed,
  count: flow.count,
  quota: flow.quota,
})

const apiKeyView = (flow: Flow): Pick<FlowJson, 'token_id' | 'token_name'> => ({
  ...(flow.apiKeyId === 0 ? {} : { token_id: flow.apiKeyId }),
  ...(flow.apiKeyName === '' ? {} : { token_name: flow.apiKeyName }),
})
