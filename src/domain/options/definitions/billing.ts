/** Options of quota, prices and groups. */
import { Type } from '@sinclair/typebox'
import { decimalNumber, flag, json, option, text, whole } from '../option.ts'
import * as defaults from './default-prices.ts'

const shown = { isPublic: true } as const
const factor = Type.Number({ minimum: 0 })
const factors = Type.Record(Type.String(), factor)
const words = Type.Record(Type.String(), Type.String())

export const billingOptions = [
  decimalNumber('QuotaPerUnit', 500000, 'Quota units of one USD', {
    ...shown,
    check: (value) => (Number(value) > 0 ? undefined : 'must be above 0'),
  }),
  option({
    key: 'general_setting.quota_display_type',
    schema: Type.Union([Type.Literal('USD'), Type.Literal('CNY'), Type.Literal('TOKENS'), Type.Literal('CUSTOM')]),
    default: 'USD',
    label: 'How quota is shown',
    isPublic: true,
  }),
  text('general_setting.custom_currency_symbol', '¤', 'Symbol of the own currency', shown),
  decimalNumber('general_setting.custom_currency_exchange_rate', 1, 'Own currency per USD', shown),
  flag('DisplayInCurrencyEnabled', true, 'Show quota as money (switches between USD and TOKENS)', shown),
  flag('DisplayTokenStatEnabled', true, 'Billing endpoints report the API key instead of its user'),
  whole('QuotaRemindThreshold', 1000, 'Warn when a balance falls below, in units'),
  whole('PreConsumedQuota', 500, 'Unused: a hold covers what a call is expected to cost'),
  whole('HoldMaxOutputTokens', 4096, 'Output tokens reserved for a call that names no maximum', { minimum: 1 }),
  flag('quota_setting.enable_free_model_pre_consume', true, 'Unused: a free call needs no hold'),
  flag('ExposeRatioEnabled', false, 'Show all ratios to everyone'),
  json('ModelRatio', factors, defaults.DEFAULT_MODEL_RATIO, 'Input price per model; 1 is 2 USD per million tokens'),
  json('CompletionRatio', factors, defaults.DEFAULT_COMPLETION_RATIO, 'Output price per model, relative to input'),
  json(
    'ModelPrice',
    factors,
    defaults.DEFAULT_MODEL_PRICE,
    'Price per call and model, USD; takes precedence over ratios',
  ),
  json('CacheRatio', factors, defaults.DEFAULT_CACHE_RATIO, 'Price of cached input, relative to input'),
  json(
    'CreateCacheRatio',
    factors,
    defaults.DEFAULT_CREATE_CACHE_RATIO,
    'Price of cache writes (5 minutes), relative to input',
  ),
  json('ImageRatio', factors, defaults.DEFAULT_IMAGE_RATIO, 'Price of image input, relative to input'),
  json('AudioRatio', factors, defaults.DEFAULT_AUDIO_RATIO, 'Price of audio input, relative to input'),
  json(
    'AudioCompletionRatio',
    factors,
    defaults.DEFAULT_AUDIO_COMPLETION_RATIO,
    'Price of audio output, relative to audio input',
  ),
  json('GroupRatio', factors, { default: 1, svip: 1, vip: 1 }, 'Groups and their price factors', {
    aliases: ['group_ratio_setting.group_ratio'],
  }),
  json(
    'GroupGroupRatio',
    Type.Record(Type.String(), factors),
    { vip: { edit_this: 0.9 } },
    'Price factor by user group and used group',
    {
      aliases: ['group_ratio_setting.group_group_ratio'],
    },
  ),
  json(
    'group_ratio_setting.group_special_usable_group',
    Type.Record(Type.String(), words),
    {},
    'Groups added (+:name or name) or removed (-:name) per user group',
  ),
  json(
    'UserUsableGroups',
    words,
    { default: 'Default', vip: 'VIP' },
    'Groups every user may choose, with descriptions',
  ),
  json('AutoGroups', Type.Array(Type.String()), ['default'], 'Groups tried by the group auto, in order'),
  flag('DefaultUseAutoGroup', false, 'New API keys use the group auto', shown),
  whole('MaxTokenAutoGroups', 5, 'Most groups in an API key’s own auto list', { minimum: 1 }),
  json('TopupGroupRatio', factors, { default: 1, svip: 1, vip: 1 }, 'Factor on the amount to pay, per group'),
  json(
    'billing_setting.billing_mode',
    Type.Record(Type.String(), Type.Union([Type.Literal('ratio'), Type.Literal('tiered_expr')])),
    {},
    'Billing mode per model',
  ),
  json('billing_setting.billing_expr', words, {}, 'Billing expression per model'),
  json('tool_price_setting.prices', factors, {}, 'USD per 1000 calls of a tool'),
] as const
