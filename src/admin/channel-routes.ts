/** Channels as administrators see them. Reading and switching is for administrators, keys and addresses are for root. */
import { Elysia, t } from 'elysia'
import { channelPermissions } from '../domain/accounts/index.ts'
import { type ChannelFilter, SORT_FIELDS, type SortField } from '../domain/channels/index.ts'
import type { SystemTasks } from '../domain/cluster/index.ts'
import type { Options } from '../domain/options/index.ts'
import { GatewayError } from '../errors.ts'
import { allowOnChannels } from './channel-access.ts'
import { channelJson, channelView, createBody, listQuery, tagBody, updateBody } from './channel-json.ts'
import { type ChannelKeyRoutesDeps, channelKeyRoutes } from './channel-key-routes.ts'
import { type Actor, envelope, idParams, ok, pageFields, pageOf, pageSchema, parsePage, plainEnvelope } from './http.ts'

export interface ChannelRoutesDeps extends ChannelKeyRoutesDeps {
  readonly options: Pick<Options, 'get'>
  readonly tasks: Pick<SystemTasks, 'request' | 'current'>
  /** Type of the task that tests all channels. */
  readonly testTask: string
}

export const channelRoutes = (deps: ChannelRoutesDeps) => {
  const { channels, options, http, tasks, testTask } = deps

  const allow = allowOnChannels(http)
  const mayWriteSensitive = (actor: Actor): boolean => channelPermissions(actor.role).sensitive_write

  return new Elysia({ prefix: '/api/channel', detail: { tags: ['channels'] } })
    .get(
      '/',
      async ({ request, query }) => {
        await allow(request, 'read')
        const page = parsePage(query)
        const { rows, total, typeCounts } = await channels.list({
          ...filterOf(query),
          offset: page.offset,
          limit: page.size,
        })
        return ok({
          ...pageOf(
            rows.map((row) => channelView(row, true)),
            total,
            page,
          ),
          type_counts: typeCounts,
        })
      },
      {
        query: t.Object({ ...pageFields, ...listQuery }),
        response: envelope(t.Composite([pageSchema(channelJson), t.Object({ type_counts: typeCountsJson })])),
        detail: { summary: 'Channels by page' },
      },
    )
    .get(
      '/search',
      async ({ request, query }) => {
        await allow(request, 'read')
        const size = wholeNumber(query.page_size) || 20
        const page = Math.max(1, wholeNumber(query.p) ?? 1)
        const { rows, total, typeCounts } = await channels.list({
          ...filterOf(query),
          keyword: query.keyword || undefined,
          model: query.model || undefined,
          offset: (page - 1) * size,
          limit: size,
        })
        return ok({ items: rows.map((row) => channelView(row, true)), total, type_counts: typeCounts })
      },
      {
        query: t.Object({
          ...pageFields,
          ...listQuery,
          keyword: t.Optional(t.String({ description: 'Id, whole key, or part of name or base URL' })),
          model: t.Optional(t.String({ description: 'Part of the models' })),
        }),
        response: envelope(t.Object({ items: t.Array(channelJson), total: t.Integer(), type_counts: typeCountsJson })),
        detail: { summary: 'Channels by words' },
      },
    )
    .get(
      '/models',
      async ({ request }) => {
        await allow(request, 'read')
        const priced = [...Object.keys(options.get('ModelRatio')), ...Object.keys(options.get('ModelPrice'))]
        const names = [...new Set([...priced, ...channels.enabledModels()])].sort()
        return ok(names.map((id) => ({ id, object: 'model' as const, created: 1626777600, owned_by: 'custom' })))
      },
      {
        response: envelope(
          t.Array(t.Object({ id: t.String(), object: t.Literal('model'), created: t.Integer(), owned_by: t.String() })),
        ),
        detail: { summary: 'Models that have a price or a channel' },
      },
    )
    .get(
      '/models_enabled',
      async ({ request }) => {
        await allow(request, 'read')
        return ok([...channels.enabledModels()])
      },
      { response: envelope(t.Array(t.String())), detail: { summary: 'Models that enabled channels serve' } },
    )
    .get(
      '/ops',
      async ({ request }) => {
        await allow(request, 'read')
        return ok({ retry_times: options.get('RetryTimes') })
      },
      { response: envelope(t.Object({ retry_times: t.Integer() })), detail: { summary: 'How calls are retried' } },
    )
    .get(
      '/tag/models',
      async ({ request, query }) => {
        await allow(request, 'read')
        return ok(await channels.tagModels(needTag(query.tag)))
      },
      {
        query: t.Object({ tag: t.Optional(t.String()) }),
        response: envelope(t.String()),
        detail: { summary: 'The longest list of models among the channels of a tag' },
      },
    )
    .get(
      '/fetch_models/:id',
      async ({ request, params }) => {
        await allow(request, 'operate')
        return ok([...(await channels.fetchModelsOf(params.id))])
      },
      {
        params: idParams,
        response: envelope(t.Array(t.String())),
        detail: { summary: 'Models that the upstream lists' },
      },
    )
    .post(
      '/fetch_models',
      async ({ request, body }) => {
        await allow(request, 'sensitive_write')
        const override = body.header_override
        return ok([
          ...(await channels.fetchModels({
            type: body.type,
            key: body.key ?? '',
            baseUrl: body.base_url ?? undefined,
            other: body.other ?? undefined,
            headerOverride:
              typeof override === 'object' && override !== null ? JSON.stringify(override) : asText(override),
            proxy: body.proxy ?? undefined,
          })),
        ])
      },
      {
        body: t.Object({
          type: t.Integer(),
          key: t.Optional(t.String()),
          base_url: t.Optional(t.Nullable(t.String())),
          other: t.Optional(t.Nullable(t.String())),
          header_override: t.Optional(t.Unknown()),
          proxy: t.Optional(t.Nullable(t.String())),
        }),
        response: envelope(t.Array(t.String())),
        detail: { summary: 'Models that an upstream lists, before its channel is saved' },
      },
    )
    .get(
      '/update_balance',
      async ({ request }) => {
        await allow(request, 'operate')
        await channels.updateBalances(request.signal)
        return ok()
      },
      {
        response: plainEnvelope,
        detail: { summary: 'Read the balances of all enabled channels; one that holds nothing is disabled' },
      },
    )
    .get(
      '/update_balance/:id',
      async ({ request, params }) => {
        await allow(request, 'operate')
        return { success: true, message: '', balance: await channels.updateBalance(params.id) }
      },
      {
        params: idParams,
        response: t.Object({
          success: t.Boolean(),
          message: t.String(),
          balance: t.Number({ description: 'In the currency of the upstream' }),
        }),
        detail: { summary: 'Read the balance of one channel' },
      },
    )
    .get(
      '/test',
      async ({ request, status }) => {
        await allow(request, 'operate')
        const task = await tasks.request(testTask, {})
        if (task) return ok({ task_id: task.taskId, status: task.status })
        const live = await tasks.current(testTask)
        const refusal = new GatewayError('task_is_live', { params: { id: live?.taskId ?? testTask } })
        return status(409, {
          success: false,
          message: http.language(request) === 'en' ? refusal.public : refusal.publicZh,
          data: { task_id: live?.taskId ?? '', status: live?.status ?? '', type: testTask },
        })
      },
      {
        response: {
          200: envelope(t.Object({ task_id: t.String(), status: t.String() })),
          409: t.Object({
            success: t.Boolean(),
            message: t.String(),
            data: t.Object({ task_id: t.String(), status: t.String(), type: t.String() }),
          }),
        },
        detail: { summary: 'Ask for a test of all channels; 409 while one is waiting or running' },
      },
    )
    .get(
      '/test/:id',
      async ({ request, params, query }) => {
        const actor = await allow(request, 'operate')
        const result = await channels.test(params.id, {
          model: query.model ?? '',
          endpointType: query.endpoint_type ?? '',
          isStream: query.stream === 'true',
          user: { id: actor.userId, name: actor.username },
        })
        return {
          success: result.isOk,
          message: result.message,
          time: result.ms / 1000,
          ...(result.errorCode !== undefined && { error_code: result.errorCode }),
        }
      },
      {
        params: idParams,
        query: t.Object({
          model: t.Optional(t.String()),
          endpoint_type: t.Optional(t.String()),
          stream: t.Optional(t.String()),
        }),
        response: t.Object({
          success: t.Boolean(),
          message: t.String(),
          time: t.Number({ description: 'Seconds' }),
          error_code: t.Optional(t.String()),
        }),
        detail: { summary: 'One call through the channel; logged with quota 0' },
      },
    )
    .get(
      '/:id',
      async ({ request, params }) => {
        await allow(request, 'read')
        return ok(channelView(await channels.get(params.id)))
      },
      { params: idParams, response: envelope(channelJson), detail: { summary: 'One channel, without its key' } },
    )
    .post(
      '/',
      async ({ request, body }) => {
        const actor = await allow(request, 'sensitive_write')
        const ids = await channels.create({
          mode: body.mode || 'single',
          multiKeyMode: body.multi_key_mode || undefined,
          isNamedByKey: body.batch_add_set_key_prefix_2_name,
          channel: body.channel,
        })
        const { name = '', type = 0 } = body.channel
        await http.audit(actor, 'channel.create', { ids, name, type, mode: body.mode || 'single' })
        return ok()
      },
      { body: createBody, response: plainEnvelope, detail: { summary: 'New channels; usable when this answers' } },
    )
    .put(
      '/',
      async ({ request, body }) => {
        const actor = await allow(request, 'write')
        if ('status' in body) throw new GatewayError('channel_status_apart', { params: { id: body.id } })
        const rights = { isSensitiveAllowed: mayWriteSensitive(actor) }
        const { row, changed } = await channels.update(body, Object.keys(body), rights)
        await http.audit(actor, 'channel.update', { id: row.id, name: row.name, fields: changed })
        return ok(channelView(row))
      },
      { body: updateBody, response: envelope(channelJson), detail: { summary: 'Change fields of a channel' } },
    )
    .delete(
      '/disabled',
      async ({ request }) => {
        const actor = await allow(request, 'sensitive_write')
        const count = await channels.removeDisabled()
        await http.audit(actor, 'channel.delete_disabled', { count })
        return ok(count)
      },
      { response: envelope(t.Integer()), detail: { summary: 'Delete all disabled channels' } },
    )
    .delete(
      '/:id',
      async ({ request, params }) => {
        const actor = await allow(request, 'sensitive_write')
        await channels.remove([params.id])
        await http.audit(actor, 'channel.delete', { id: params.id })
        return ok()
      },
      { params: idParams, response: plainEnvelope, detail: { summary: 'Delete a channel' } },
    )
    .post(
      '/batch',
      async ({ request, body }) => {
        const actor = await allow(request, 'sensitive_write')
        const count = await channels.remove(body.ids)
        await http.audit(actor, 'channel.delete_batch', { ids: body.ids, count })
        return ok(count)
      },
      { body: t.Object({ ids }), response: envelope(t.Integer()), detail: { summary: 'Delete several channels' } },
    )
    .post(
      '/batch/tag',
      async ({ request, body }) => {
        const actor = await allow(request, 'write')
        const count = await channels.setTag(body.ids, body.tag ?? null)
        await http.audit(actor, 'channel.set_tag', { ids: body.ids, tag: body.tag ?? null })
        return ok(count)
      },
      {
        body: t.Object({ ids, tag: t.Optional(t.Nullable(t.String())) }),
        response: envelope(t.Integer()),
        detail: { summary: 'Put several channels under a tag' },
      },
    )
    .post(
      '/:id/status',
      async ({ request, params, body }) => {
        const actor = await allow(request, 'operate')
        await channels.get(params.id)
        const changed = (await channels.setStatus([params.id], body.status, 'manual operation')) > 0
        await http.audit(actor, 'channel.status', { id: params.id, status: body.status })
        return ok(changed)
      },
      {
        params: idParams,
        body: t.Object({ status: newStatus }),
        response: envelope(t.Boolean()),
        detail: { summary: 'Enable or disable a channel' },
      },
    )
    .post(
      '/status/batch',
      async ({ request, body }) => {
        const actor = await allow(request, 'operate')
        const count = await channels.setStatus(body.ids, body.status, 'manual batch operation')
        await http.audit(actor, 'channel.status_batch', { ids: body.ids, status: body.status, count })
        return ok(count)
      },
      {
        body: t.Object({ ids, status: newStatus }),
        response: envelope(t.Integer()),
        detail: { summary: 'Enable or disable several channels' },
      },
    )
    .post(
      '/tag/:state',
      async ({ request, params, body }) => {
        const actor = await allow(request, 'operate')
        const tag = needTag(body.tag)
        const count = await channels.setTagStatus(tag, params.state === 'enabled' ? 1 : 2)
        await http.audit(actor, `channel.tag_${params.state}`, { tag, count })
        return ok()
      },
      {
        params: t.Object({ state: t.Union([t.Literal('enabled'), t.Literal('disabled')]) }),
        body: t.Object({ tag: t.Optional(t.String()) }),
        response: plainEnvelope,
        detail: { summary: 'Enable or disable all channels of a tag' },
      },
    )
    .put(
      '/tag',
      async ({ request, body }) => {
        const { param_override, header_override, ...rest } = body
        const isSensitive = (param_override ?? undefined) !== undefined || (header_override ?? undefined) !== undefined
        const actor = await allow(request, isSensitive ? 'sensitive_write' : 'write')
        const tag = needTag(body.tag)
        const { priority, weight, model_mapping } = rest
        const count = await channels.updateTag({
          tag,
          newTag: rest.new_tag,
          fields: {
            priority,
            weight,
            model_mapping,
            models: rest.models ?? undefined,
            group: rest.groups ?? undefined,
            param_override,
            header_override,
          },
        })
        await http.audit(actor, 'channel.tag_update', { tag, new_tag: rest.new_tag ?? null, count })
        return ok()
      },
      { body: tagBody, response: plainEnvelope, detail: { summary: 'Change all channels of a tag' } },
    )
    .post(
      '/copy/:id',
      async ({ request, params, query }) => {
        const actor = await allow(request, 'sensitive_write')
        const id = await channels.copy(params.id, {
          suffix: query.suffix ?? '_复制',
          isBalanceReset: query.reset_balance === 'true',
        })
        await http.audit(actor, 'channel.copy', { id: params.id, copy: id })
        return ok({ id })
      },
      {
        params: idParams,
        query: t.Object({ suffix: t.Optional(t.String()), reset_balance: t.Optional(t.String()) }),
        response: envelope(t.Object({ id: t.Integer() })),
        detail: { summary: 'A second channel like this one' },
      },
    )
    .post(
      '/fix',
      async ({ request }) => {
        const actor = await allow(request, 'operate')
        const result = await channels.fix()
        await http.audit(actor, 'channel.fix', { ...result })
        return ok(result)
      },
      {
        response: envelope(t.Object({ success: t.Integer(), fails: t.Integer() })),
        detail: { summary: 'Derive what channels serve anew' },
      },
    )
    .use(channelKeyRoutes(deps))
}

const ids = t.Array(t.Integer())
const newStatus = t.Union([t.Literal(1), t.Literal(2)])
const typeCountsJson = t.Record(t.String(), t.Integer())

/** @throws GatewayError 400 `channel_tag_required` */
const needTag = (tag: string | undefined): string => {
  if (!tag) throw new GatewayError('channel_tag_required')
  return tag
}

const asText = (value: unknown): string | undefined => (typeof value === 'string' ? value : undefined)

const wholeNumber = (text: string | undefined): number | undefined => {
  const number = Number.parseInt(text ?? '', 10)
  return Number.isNaN(number) || number < 0 ? undefined : number
}

const isSortField = (name: string | undefined): name is SortField => SORT_FIELDS.some((field) => field === name)

type ListQuery = { readonly [name in keyof typeof listQuery]?: string | undefined }

const filterOf = (query: ListQuery): Omit<ChannelFilter, 'offset' | 'limit'> => {
  const { group, status, sort_by: by } = query
  const isUnsorted = !isSortField(by)
  const sort = isUnsorted
    ? { by: query.id_sort === 'true' ? ('id' as const) : ('priority' as const), isDescending: true }
    : { by, isDescending: query.sort_order !== 'asc' }
  return {
    group: !group || group === 'all' || group === 'null' ? undefined : group,
    status:
      status === 'enabled' || status === '1'
        ? 'enabled'
        : status === 'disabled' || status === '0'
          ? 'disabled'
          : undefined,
    type: wholeNumber(query.type),
    sort,
    isByTag: query.tag_mode === 'true',
  }
}
