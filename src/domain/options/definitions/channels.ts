/** Options of retries, automatic disabling, monitoring and sticky routing. */
import { Type } from '@sinclair/typebox'
import { decimalNumber, flag, json, option, text, whole } from '../option.ts'
import { statusCodes } from './rules.ts'

const DISABLE_KEYWORDS = [
  'Your credit balance is too low',
  'This organization has been disabled.',
  'You exceeded your current quota',
  'Permission denied',
  'The security token included in the request is invalid',
  'Operation not allowed',
  'Your account is not authorized',
].join('\n')

/** Sticky routing for the two coding clients that profit most from an upstream's prompt cache. */
const AFFINITY_RULES = [
  {
    name: 'codex cli trace',
    model_regex: ['^gpt-.*$'],
    path_regex: ['/v1/responses'],
    user_agent_include: [],
    key_sources: [{ type: 'gjson', path: 'prompt_cache_key' }],
    value_regex: '',
    ttl_seconds: 0,
    skip_retry_on_failure: true,
    include_using_group: true,
    include_model_name: false,
    include_rule_name: true,
  },
  {
    name: 'claude cli trace',
    model_regex: ['^claude-.*$'],
    path_regex: ['/v1/messages'],
    user_agent_include: [],
    key_sources: [{ type: 'gjson', path: 'metadata.user_id' }],
    value_regex: '',
    ttl_seconds: 0,
    skip_retry_on_failure: true,
    include_using_group: true,
    include_model_name: false,
    include_rule_name: true,
  },
]

const choice = <const T extends readonly string[]>(...values: T) =>
  Type.Union(values.map((value) => Type.Literal(value)))

export const channelOptions = [
  whole('RetryTimes', 0, 'Further attempts after a failed one'),
  decimalNumber('ChannelDisableThreshold', 5, 'Seconds after which a channel test has failed'),
  flag('AutomaticDisableChannelEnabled', false, 'Disable failing channels'),
  flag('AutomaticEnableChannelEnabled', false, 'Enable channels again that pass a test'),
  text('AutomaticDisableKeywords', DISABLE_KEYWORDS, 'Upstream error texts that disable a channel, one per line'),
  text('AutomaticDisableStatusCodes', '401', 'Upstream statuses that disable a channel', { check: statusCodes }),
  text(
    'AutomaticRetryStatusCodes',
    '100-199,300-399,401-407,409-499,500-503,505-523,525-599',
    'Upstream statuses after which another channel is tried',
    { check: statusCodes },
  ),
  flag('channel_health_setting.enabled', true, 'Keep calls away from channels that fail, for a while'),
  decimalNumber('channel_health_setting.window_seconds', 60, 'Seconds over which the outcomes of a channel are judged'),
  whole(
    'channel_health_setting.failure_count',
    5,
    'Failures without a success that take a channel out for a while; beside successes three times as many',
    {
      minimum: 1,
    },
  ),
  decimalNumber(
    'channel_health_setting.failure_percent',
    50,
    'Least share of failures beside successes that does, in percent',
  ),
  decimalNumber('channel_health_setting.cool_down_seconds', 10, 'Seconds a failing channel is left alone at least'),
  decimalNumber(
    'channel_health_setting.max_cool_down_seconds',
    300,
    'Most seconds a channel is left alone that fails again and again',
  ),
  flag('monitor_setting.auto_test_channel_enabled', false, 'Test channels regularly'),
  decimalNumber('monitor_setting.auto_test_channel_minutes', 10, 'Minutes between channel tests'),
  option({
    key: 'monitor_setting.channel_test_mode',
    schema: choice('scheduled_all', 'auto_ban_only', 'passive_recovery'),
    default: 'scheduled_all',
    label: 'Which channels are tested',
  }),
  flag('channel_affinity_setting.enabled', true, 'Sticky routing'),
  flag('channel_affinity_setting.switch_on_success', true, 'Follow a retry that succeeded elsewhere'),
  flag('channel_affinity_setting.keep_on_channel_disabled', false, 'Stay with a disabled channel'),
  whole('channel_affinity_setting.max_entries', 100000, 'Most entries of sticky routing'),
  whole('channel_affinity_setting.default_ttl_seconds', 3600, 'Seconds an entry of sticky routing lives'),
  json(
    'channel_affinity_setting.rules',
    Type.Array(Type.Record(Type.String(), Type.Unknown())),
    AFFINITY_RULES,
    'Rules of sticky routing',
  ),
  flag('perf_metrics_setting.enabled', true, 'Record response times'),
  whole('perf_metrics_setting.flush_interval', 5, 'Minutes between writes of response times', { minimum: 1 }),
  option({
    key: 'perf_metrics_setting.bucket_time',
    schema: choice('minute', '5min', 'hour'),
    default: 'hour',
    label: 'Step of the response times',
  }),
  whole('perf_metrics_setting.retention_days', 0, 'Days response times are kept; 0 for ever'),
] as const
