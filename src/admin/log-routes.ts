/**
 * Call records and their sums: everything for administrators, their own for users, and those of one API key for its
 * holder. Users do not see channels, nor what is kept for administrators.
 */

import { Elysia, type Static, t } from 'elysia'
import { ROLE } from '../domain/accounts/index.ts'
import type { LogFilter, LogReads, LogRow } from '../domain/usage/index.ts'
import { asGatewayError, GatewayError } from '../errors.ts'
import {
  type AdminHttp,
  envelope,
  ok,
  type PageQuery,
  pageFields,
  pageOf,
  pageSchema,
  parsePage,
  plainEnvelope,
} from './http.ts'

const logJson = t.Object({
  id: t.Integer(),
  user_id: t.Integer(),
  created_at: t.Integer(),
  type: t.Integer(),
  content: t.String(),
  username: t.String(),
  token_name: t.String(),
  model_name: t.String(),
  quota: t.Integer(),
  prompt_tokens: t.Integer(),
  completion_tokens: t.Integer(),
  use_time: t.Integer(),
  is_stream: t.Boolean(),
  channel: t.Integer(),
  channel_name: t.String(),
  token_id: t.Integer(),
  group: t.String(),
  ip: t.String(),
  request_id: t.Optional(t.String()),
  upstream_request_id: t.Optional(t.String()),
  other: t.String(),
})
const logPageJson = t.Composite([
  pageSchema(logJson),
  t.Object({
    is_total_capped: t.Boolean({ description: 'There are more than the total, which is counted to 10,000' }),
  }),
])
const sumsJson = t.Object({ quota: t.Number(), rpm: t.Integer(), tpm: t.Integer() })

/** Read leniently: what is no number means any. */
const ownFilter = {
  type: t.Optional(t.String()),
  start_timestamp: t.Optional(t.String()),
  end_timestamp: t.Optional(t.String()),
  token_name: t.Optional(t.String()),
  model_name: t.Optional(t.String()),
  group: t.Optional(t.String()),
  request_id: t.Optional(t.String()),
  upstream_request_id: t.Optional(t.String()),
}
const fullFilter = { ...ownFilter, username: t.Optional(t.String()), channel: t.Optional(t.String()) }
const fullFilterSchema = t.Object(fullFilter)
type FilterQuery = Static<typeof fullFilterSchema>

export const logRoutes = (deps: {
  readonly logs: LogReads
  readonly http: AdminHttp
  /**
   * The key that a request shows, in any state but disabled.
   * @throws GatewayError 401 for an unknown or disabled key, 503 while the database cannot say
   */
  readonly readableApiKey: (request: Request) => Promise<{ readonly apiKeyId: number }>
}) => {
  const { logs, http, readableApiKey } = deps

  const page = async <T>(filter: LogFilter, query: PageQuery, view: (row: LogRow, position: number) => T) => {
    const wanted = parsePage(query)
    const { items, total, isTotalCapped } = await logs.list(filter, wanted)
    const views = items.map((row, index) => view(row, wanted.offset + index + 1))
    return ok({ ...pageOf(views, total, wanted), is_total_capped: isTotalCapped })
  }

  return new Elysia({ prefix: '/api/log', detail: { tags: ['logs'] } })
    .get(
      '/',
      async ({ request, query }) => {
        await http.actor(request, ROLE.admin)
        return page(filterOf(query), query, adminView)
      },
      {
        query: t.Object({ ...fullFilter, ...pageFields }),
        response: envelope(logPageJson),
        detail: { summary: 'Call records, newest first' },
      },
    )
    .get(
      '/self',
      async ({ request, query }) => {
        const { userId } = await http.actor(request, ROLE.user)
        return page({ ...filterOf(query), userId }, query, ownView)
      },
      {
        query: t.Object({ ...ownFilter, ...pageFields }),
        response: envelope(logPageJson),
        detail: { summary: 'Own call records, newest first' },
      },
    )
    .get(
      '/stat',
      async ({ request, query }) => {
        await http.actor(request, ROLE.admin)
        return ok(await logs.sums(filterOf(query)))
      },
      {
        query: fullFilterSchema,
        response: envelope(sumsJson),
        detail: { summary: 'Sum of quota; calls and tokens per minute' },
      },
    )
    .get(
      '/self/stat',
      async ({ request, query }) => {
        const { userId } = await http.actor(request, ROLE.user)
        return ok(await logs.sums({ ...filterOf(query), userId }))
      },
      { query: t.Object(ownFilter), response: envelope(sumsJson), detail: { summary: 'The same of one’s own calls' } },
    )
    .get(
      '/token',
      async ({ request, set, status }) => {
        Object.assign(set.headers, ANY_ORIGIN)
        await http.limitCritical(request)
        const apiKey = await readableApiKey(request).catch((thrown) => refusalOf(thrown))
        if (apiKey instanceof GatewayError) {
          const message = http.language(request) === 'zh' ? apiKey.publicZh : apiKey.public
          return status(401, { success: false, message })
        }
        return ok((await logs.ofApiKey(apiKey.apiKeyId)).map((row, index) => ownView(row, index + 1)))
      },
      {
        response: { 200: envelope(t.Array(logJson)), 401: plainEnvelope },
        detail: { summary: 'Records of the API key that asks, at most 1,000' },
      },
    )
    .options('/token', () => new Response(null, { status: 204, headers: ANY_ORIGIN }), { detail: { hide: true } })
    .get('/search', ({ path }) => withdrawn(path), { response: plainEnvelope, detail: { hide: true } })
    .get('/self/search', ({ path }) => withdrawn(path), { response: plainEnvelope, detail: { hide: true } })
}

/** Pages of any origin may ask with an API key in their hands. */
const ANY_ORIGIN = {
  'access-control-allow-origin': '*',
  'access-control-allow-headers': 'authorization',
  'access-control-allow-methods': 'GET',
}

/** A key that is refused is answered in the words that tools with an API key know: 401 and no code. Other failures pass. */
function refusalOf(thrown: unknown): GatewayError {
  const failure = asGatewayError(thrown)
  if (failure.status !== 401 && failure.status !== 403) throw failure
  return failure
}

function withdrawn(path: string): never {
  throw new GatewayError('withdrawn', { params: { path: path.replace(/search\/?$/, '') } })
}

const filterOf = (query: FilterQuery): LogFilter => ({
  type: wholeOf(query.type),
  fromSec: wholeOf(query.start_timestamp),
  toSec: wholeOf(query.end_timestamp),
  username: query.username,
  modelName: query.model_name,
  apiKeyName: query.token_name,
  channelId: wholeOf(query.channel),
  group: query.group,
  requestId: query.request_id,
  upstreamRequestId: query.upstream_request_id,
})

const wholeOf = (text: string | undefined): number => {
  const value = Number.parseInt(text ?? '', 10)
  return Number.isSafeInteger(value) && value > 0 ? value : 0
}

const adminView = (row: LogRow): Static<typeof logJson> => ({
  id: row.id,
  user_id: row.userId,
  created_at: row.createdAtSec,
  type: row.type,
  content: row.content,
  username: row.username,
  token_name: row.apiKeyName,
  model_name: row.modelName,
  quota: row.quota,
  prompt_tokens: row.promptTokens,
  completion_tokens: row.completionTokens,
  use_time: row.useTimeSec,
  is_stream: row.isStream,
  channel: row.channelId,
  channel_name: row.channelName,
  token_id: row.apiKeyId,
  group: row.group,
  ip: row.ip,
  ...(row.requestId === '' ? {} : { request_id: row.requestId }),
  ...(row.upstreamRequestId === '' ? {} : { upstream_request_id: row.upstreamRequestId }),
  other: row.other,
})

/** Ids count from the newest, so that they tell nothing of how much others call; where a call went is not shown. */
const ownView = (row: LogRow, position: number): Static<typeof logJson> => ({
  ...adminView(row),
  id: position,
  channel: 0,
  channel_name: '',
  other: ownOther(row.other),
})

const HIDDEN_FIELDS = ['admin_info', 'audit_info', 'channel_id', 'channel_name', 'channel_type']

/** @returns JSON text; `null` where there is nothing, as the console expects */
function ownOther(text: string): string {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return 'null' // Empty or unreadable; what cannot be cleaned is not shown.
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return 'null'
  return JSON.stringify(Object.fromEntries(Object.entries(value).filter(([name]) => !HIDDEN_FIELDS.includes(name))))
}
