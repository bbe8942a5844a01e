/** The keys of channels: the state of each, switching and deleting them, and the one way to read them. */
import { Elysia, type Static, t } from 'elysia'
import { ROLE } from '../domain/accounts/index.ts'
import type { Channels, KeyAction } from '../domain/channels/index.ts'
import { GatewayError } from '../errors.ts'
import { allowOnChannels } from './channel-access.ts'
import { type AdminHttp, envelope, idParams, ok } from './http.ts'

export interface ChannelKeyRoutesDeps {
  readonly channels: Channels
  readonly http: AdminHttp
  /** Is this the password of the user? The proof that a key is shown for. */
  readonly isPassword: (userId: number, password: string) => Promise<boolean>
}

export const channelKeyRoutes = ({ channels, http, isPassword }: ChannelKeyRoutesDeps) => {
  const allow = allowOnChannels(http)
  return new Elysia()
    .post(
      '/:id/key',
      async ({ request, params, body }) => {
        const actor = await http.actor(request, ROLE.root, { sessionOnly: true })
        await http.limitCritical(request)
        if (!body.password) throw new GatewayError('SECURITY_PROOF_REQUIRED')
        if (!(await isPassword(actor.userId, body.password))) throw new GatewayError('SECURITY_PROOF_INVALID')
        const key = await channels.keyText(params.id)
        await http.audit(actor, 'channel.key_view', { id: params.id })
        return ok({ key })
      },
      {
        params: idParams,
        body: t.Object({ password: t.Optional(t.String({ description: 'Of the caller: the proof' })) }),
        response: envelope(t.Object({ key: t.String() })),
        detail: { summary: 'The key of a channel; root only, with a fresh proof' },
      },
    )
    .post(
      '/multi_key/manage',
      async ({ request, body }) => {
        const isDeleting = body.action === 'delete_key' || body.action === 'delete_disabled_keys'
        const actor = await allow(request, isDeleting ? 'sensitive_write' : 'operate')
        if (body.action === 'get_key_status') return ok(await keyPage(channels, body))
        const count = await channels.manageKeys(body.channel_id, keyAction(body))
        const { channel_id: id, action, key_index: index } = body
        await http.audit(actor, `channel.${action}`, { id, ...(index !== undefined && { index }), count })
        return body.action === 'delete_disabled_keys' ? ok(count) : ok()
      },
      {
        body: manageBody,
        response: envelope(t.Union([keyPageJson, t.Integer()])),
        detail: { summary: 'The keys of a channel with several' },
      },
    )
}

const manageBody = t.Object({
  channel_id: t.Integer(),
  action: t.Union(
    (
      [
        'get_key_status',
        'disable_key',
        'enable_key',
        'enable_all_keys',
        'disable_all_keys',
        'delete_key',
        'delete_disabled_keys',
      ] as const
    ).map((action) => t.Literal(action)),
  ),
  key_index: t.Optional(t.Nullable(t.Integer())),
  page: t.Optional(t.Nullable(t.Integer())),
  page_size: t.Optional(t.Nullable(t.Integer())),
  status: t.Optional(t.Nullable(t.Integer())),
})
type ManageBody = Static<typeof manageBody>

const keyJson = t.Object({
  index: t.Integer(),
  status: t.Integer({ description: '1 enabled, 2 disabled by hand, 3 disabled automatically' }),
  disabled_time: t.Optional(t.Integer()),
  reason: t.Optional(t.String()),
  key_preview: t.String(),
})
const keyPageJson = t.Object({
  keys: t.Array(keyJson),
  total: t.Integer(),
  page: t.Integer(),
  page_size: t.Integer(),
  total_pages: t.Integer(),
  enabled_count: t.Integer(),
  manual_disabled_count: t.Integer(),
  auto_disabled_count: t.Integer(),
})

const PREVIEW_LENGTH = 10

const preview = (key: string): string => (key.length > PREVIEW_LENGTH ? `${key.slice(0, PREVIEW_LENGTH)}...` : key)

const keyPage = async (channels: Channels, body: ManageBody): Promise<Static<typeof keyPageJson>> => {
  const size = Math.max(1, body.page_size || 50)
  const page = Math.max(1, body.page || 1)
  const list = await channels.keys(body.channel_id, body.status ?? undefined)
  return {
    keys: list.keys.slice((page - 1) * size, page * size).map(({ index, key, status, reason, disabledTime }) => ({
      index,
      status,
      ...(disabledTime !== undefined && { disabled_time: disabledTime }),
      ...(reason !== undefined && { reason }),
      key_preview: preview(key),
    })),
    total: list.total,
    page,
    page_size: size,
    total_pages: Math.ceil(list.total / size),
    enabled_count: list.enabledCount,
    manual_disabled_count: list.manualDisabledCount,
    auto_disabled_count: list.autoDisabledCount,
  }
}

/** @throws GatewayError when the action needs an index and has none */
const keyAction = ({ action, key_index }: ManageBody): KeyAction => {
  const index = (): number => {
    if (typeof key_index !== 'number')
      throw new GatewayError('channel_field_required', { params: { field: 'key_index' } })
    return key_index
  }
  switch (action) {
    case 'disable_key':
      return { kind: 'disable', index: index() }
    case 'enable_key':
      return { kind: 'enable', index: index() }
    case 'delete_key':
      return { kind: 'delete', index: index() }
    case 'enable_all_keys':
      return { kind: 'enable-all' }
    case 'disable_all_keys':
      return { kind: 'disable-all' }
    default:
      return { kind: 'delete-disabled' }
  }
}
