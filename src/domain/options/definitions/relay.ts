/** Options of how calls are carried, checked and limited. */
import { Type } from '@sinclair/typebox'
import { decimalNumber, flag, json, text, whole } from '../option.ts'

const anyObject = Type.Record(Type.String(), Type.Unknown())
const words = Type.Record(Type.String(), Type.String())
const list = Type.Array(Type.String())
const share = (value: unknown) => (Number(value) <= 1 ? undefined : 'must be at most 1')
const percent = (value: unknown) => (Number(value) <= 100 ? undefined : 'must be at most 100')

/** Thresholds of Gemini's safety settings. https://ai.google.dev/gemini-api/docs/safety-settings */
const SAFETY = [
  'OFF',
  'BLOCK_NONE',
  'BLOCK_ONLY_HIGH',
  'BLOCK_MEDIUM_AND_ABOVE',
  'BLOCK_LOW_AND_ABOVE',
  'HARM_BLOCK_THRESHOLD_UNSPECIFIED',
]

const limitPairs = Type.Record(
  Type.String(),
  Type.Tuple([Type.Integer({ minimum: 0, maximum: 2147483647 }), Type.Integer({ minimum: 1, maximum: 2147483647 })]),
)

const bound = Type.Optional(Type.Integer({ minimum: 0, maximum: 2147483647 }))
const bounds = Type.Record(
  Type.String(),
  Type.Object({ rpm: bound, tpm: bound, concurrency: bound }, { additionalProperties: false }),
)

export const relayOptions = [
  flag('LogConsumeEnabled', true, 'Log every call'),
  flag('ModelRequestRateLimitEnabled', false, 'Limit calls per user'),
  whole('ModelRequestRateLimitDurationMinutes', 1, 'Minutes of the limit’s window', { minimum: 1 }),
  whole('ModelRequestRateLimitCount', 0, 'Calls per window; 0 for no limit'),
  whole('ModelRequestRateLimitSuccessCount', 1000, 'Successful calls per window', { minimum: 1 }),
  json('ModelRequestRateLimitGroup', limitPairs, {}, 'Own limits per group: [calls, successful calls]'),
  json('GroupLimits', bounds, {}, 'All calls of a group together: requests and tokens per minute, calls at once'),
  flag('CheckSensitiveEnabled', true, 'Check for sensitive words'),
  flag('CheckSensitiveOnPromptEnabled', true, 'Check prompts for sensitive words'),
  flag('StopOnSensitiveEnabled', true, 'Refuse calls with sensitive words'),
  text('SensitiveWords', 'test_sensitive', 'Sensitive words, one per line'),
  whole('StreamCacheQueueLength', 0, 'Unused'),
  flag('general_setting.ping_interval_enabled', false, 'Keep silent streams alive with comments'),
  whole('general_setting.ping_interval_seconds', 60, 'Seconds of silence before a comment', { minimum: 1 }),
  flag('global.pass_through_request_enabled', false, 'Send bodies on as they are'),
  json(
    'global.thinking_model_blacklist',
    list,
    ['moonshotai/kimi-k2-thinking', 'kimi-k2-thinking'],
    'Models whose name ends in -thinking without it being a switch',
  ),
  json(
    'global.chat_completions_to_responses_policy',
    anyObject,
    { enabled: false, all_channels: true },
    'Chat calls sent to the Responses API',
  ),
  json('claude.model_headers_settings', Type.Record(Type.String(), anyObject), {}, 'Extra headers per Claude model'),
  json(
    'claude.default_max_tokens',
    Type.Record(Type.String(), Type.Integer({ minimum: 0 })),
    { default: 8192 },
    'max_tokens sent to Claude when the client names none',
  ),
  flag('claude.thinking_adapter_enabled', true, 'Claude names ending in -thinking switch thinking on'),
  decimalNumber('claude.thinking_adapter_budget_tokens_percentage', 0.8, 'Share of max_tokens for thinking', {
    check: share,
  }),
  json(
    'gemini.safety_settings',
    Type.Record(Type.String(), Type.Union(SAFETY.map((level) => Type.Literal(level)))),
    { default: 'OFF' },
    'Gemini safety thresholds per category',
  ),
  json('gemini.version_settings', words, { default: 'v1beta', 'gemini-1.0-pro': 'v1' }, 'Gemini API version per model'),
  json(
    'gemini.supported_imagine_models',
    list,
    [
      'gemini-2.0-flash-exp-image-generation',
      'gemini-2.0-flash-exp',
      'gemini-2.5-flash-image',
      'gemini-3-pro-image-preview',
    ],
    'Gemini models that answer with images',
  ),
  flag('gemini.thinking_adapter_enabled', false, 'Gemini names ending in -thinking switch thinking on'),
  decimalNumber('gemini.thinking_adapter_budget_tokens_percentage', 0.6, 'Share of max_tokens for thinking', {
    check: share,
  }),
  flag('gemini.function_call_thought_signature_enabled', true, 'Send thought signatures with function calls'),
  flag('gemini.remove_function_response_id_enabled', true, 'Leave out ids of function responses'),
  flag('grok.violation_deduction_enabled', true, 'Charge a fee for violations that xAI charges for'),
  decimalNumber('grok.violation_deduction_amount', 0.05, 'Fee of a violation, USD'),
  json(
    'qwen.sync_image_models',
    list,
    ['qwen-image', 'qwen-image-edit', 'qwen-image-plus'],
    'Qwen image models that answer at once',
  ),
  flag('MjNotifyEnabled', false, 'Midjourney: call-backs', { isPublic: true }),
  flag('MjAccountFilterEnabled', false, 'Midjourney: allow account filters'),
  flag('MjModeClearEnabled', false, 'Midjourney: remove mode switches from prompts'),
  flag('MjForwardUrlEnabled', true, 'Midjourney: show images through this gateway'),
  flag('MjActionCheckSuccessEnabled', true, 'Midjourney: actions only on finished tasks'),
  text('WorkerUrl', '', 'Address of a download worker'),
  text('WorkerValidKey', '', 'Key of the download worker'),
  flag('WorkerAllowHttpImageRequestEnabled', false, 'The worker may fetch over http'),
  flag('fetch_setting.enable_ssrf_protection', true, 'Guard downloads against internal addresses'),
  flag('fetch_setting.allow_private_ip', false, 'Downloads may reach private addresses'),
  flag('fetch_setting.domain_filter_mode', false, 'The domain list allows (else refuses)'),
  flag('fetch_setting.ip_filter_mode', false, 'The address list allows (else refuses)'),
  json('fetch_setting.domain_list', list, [], 'Domains of the download filter'),
  json('fetch_setting.ip_list', list, [], 'Addresses of the download filter'),
  json('fetch_setting.allowed_ports', list, ['80', '443', '8080', '8443'], 'Ports downloads may use'),
  flag('fetch_setting.apply_ip_filter_for_domain', true, 'Check the addresses a domain resolves to'),
  flag('performance_setting.disk_cache_enabled', false, 'Keep large bodies on disk'),
  whole('performance_setting.disk_cache_threshold_mb', 10, 'Size from which a body is kept on disk, MB'),
  whole('performance_setting.disk_cache_max_size_mb', 1024, 'Most disk used for bodies, MB'),
  text('performance_setting.disk_cache_path', '', 'Folder for bodies kept on disk'),
  flag('performance_setting.monitor_enabled', true, 'Refuse calls while this node is overloaded'),
  whole(
    'performance_setting.monitor_cpu_threshold',
    90,
    'CPU of the node’s processes that counts as overload, %; 0: none',
    { check: percent },
  ),
  whole('performance_setting.monitor_memory_threshold', 90, 'Memory of the node that counts as overload, %; 0: none', {
    check: percent,
  }),
  whole(
    'performance_setting.monitor_disk_threshold',
    95,
    'Disk use that counts as overload, %, with less than 1 GiB free; 0: none',
    { check: percent },
  ),
] as const
