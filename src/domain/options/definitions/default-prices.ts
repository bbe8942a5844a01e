/**
 * The built-in price tables. A ratio of 1 is 2 USD per million input tokens; the other factors are relative to it.
 * Sources: the providers' public price lists, in the selection that New API ships.
 */

/** Each row: a factor, and the models that have it, separated by blanks. */
type Rows = readonly (readonly [factor: number, models: string])[]

const table = (rows: Rows): Record<string, number> =>
  Object.fromEntries(
    rows.flatMap(([factor, models]) =>
      models
        .trim()
        .split(/\s+/)
        .map((model) => [model, factor]),
    ),
  )

const CLAUDE_OLD = 'claude-3-haiku-20240307'
const CLAUDE_HAIKU = 'claude-3-5-haiku-20241022 claude-3-5-haiku-latest claude-haiku-4-5 claude-haiku-4-5-20251001'
const CLAUDE_SONNET = `claude-3-sonnet-20240229 claude-3-5-sonnet-20240620 claude-3-5-sonnet-20241022 claude-3-5-sonnet-latest
  claude-3-7-sonnet-20250219 claude-3-7-sonnet-latest claude-3-7-sonnet-20250219-thinking claude-sonnet-4-0
  claude-sonnet-4-20250514 claude-sonnet-4-20250514-thinking claude-sonnet-4-5 claude-sonnet-4-5-20250929
  claude-sonnet-4-5-20250929-thinking`
const CLAUDE_OPUS_OLD = `claude-3-opus-20240229 claude-3-opus-latest claude-opus-4-0 claude-opus-4-20250514
  claude-opus-4-20250514-thinking claude-opus-4-1 claude-opus-4-1-20250805 claude-opus-4-1-20250805-thinking`
const CLAUDE_OPUS = [
  'claude-opus-4-5',
  'claude-opus-4-5-20251101',
  'claude-opus-4-6',
  'claude-opus-4-7',
  'claude-opus-4-8',
]
  .flatMap((model) => ['', '-thinking', '-max', '-xhigh', '-high', '-medium', '-low'].map((effort) => model + effort))
  .join(' ')
const CLAUDE = [CLAUDE_OLD, CLAUDE_HAIKU, CLAUDE_SONNET, CLAUDE_OPUS_OLD, CLAUDE_OPUS].join(' ')
const GPT_4O = 'gpt-4o gpt-4o-2024-08-06 gpt-4o-2024-11-20'
const GPT_4O_MINI = 'gpt-4o-mini gpt-4o-mini-2024-07-18'
const GPT_41 = `gpt-4.1 gpt-4.1-2025-04-14 gpt-4.1-mini gpt-4.1-mini-2025-04-14 gpt-4.1-nano gpt-4.1-nano-2025-04-14`
const GPT_56 = 'gpt-5.6-sol gpt-5.6-terra gpt-5.6-luna'
const REALTIME = 'gpt-4o-realtime-preview gpt-4o-realtime-preview-2024-10-01 gpt-4o-realtime-preview-2024-12-17'
const REALTIME_MINI = 'gpt-4o-mini-realtime-preview gpt-4o-mini-realtime-preview-2024-12-17'
const AUDIO = 'gpt-4o-audio-preview gpt-4o-audio-preview-2024-10-01 gpt-4o-audio-preview-2024-12-17'
const DEEPSEEK = 'deepseek-chat deepseek-coder deepseek-reasoner'
const MJ_ACTIONS = `mj_imagine mj_blend mj_variation mj_reroll mj_modal mj_zoom mj_shorten mj_high_variation mj_low_variation
  mj_pan mj_edits`

export const DEFAULT_MODEL_RATIO = table([
  [1.25, GPT_4O],
  [2.5, 'gpt-4o-2024-05-13 chatgpt-4o-latest'],
  [0.075, GPT_4O_MINI],
  [1, 'gpt-4.1 gpt-4.1-2025-04-14'],
  [0.2, 'gpt-4.1-mini gpt-4.1-mini-2025-04-14'],
  [0.05, 'gpt-4.1-nano gpt-4.1-nano-2025-04-14'],
  [0.625, 'gpt-5 gpt-5-2025-08-07 gpt-5-chat-latest'],
  [0.125, 'gpt-5-mini gpt-5-mini-2025-08-07'],
  [0.025, 'gpt-5-nano gpt-5-nano-2025-08-07'],
  [2.5, 'gpt-5.5 gpt-5.6-sol'],
  [1.25, 'gpt-5.6-terra'],
  [0.5, 'gpt-5.6-luna'],
  [7.5, 'o1 o1-2024-12-17 o1-preview o1-preview-2024-09-12'],
  [75, 'o1-pro o1-pro-2025-03-19'],
  [0.55, 'o1-mini o1-mini-2024-09-12 o3-mini o3-mini-2025-01-31 o4-mini o4-mini-2025-04-16'],
  [1, 'o3 o3-2025-04-16'],
  [10, 'o3-pro o3-pro-2025-06-10'],
  [5, 'o3-deep-research o3-deep-research-2025-06-26'],
  [15, 'gpt-4 gpt-4-0613'],
  [5, 'gpt-4-turbo gpt-4-turbo-2024-04-09'],
  [0.25, 'gpt-3.5-turbo gpt-3.5-turbo-0125'],
  [2.5, `gpt-image-1 ${REALTIME}`],
  [0.3, REALTIME_MINI],
  [1.25, AUDIO],
  [15, 'whisper-1'],
  [7.5, 'tts-1 tts-1-1106'],
  [15, 'tts-1-hd tts-1-hd-1106'],
  [0.125, CLAUDE_OLD],
  [0.5, CLAUDE_HAIKU],
  [1.5, CLAUDE_SONNET],
  [7.5, CLAUDE_OPUS_OLD],
  [2.5, CLAUDE_OPUS],
  [0.625, 'gemini-2.5-pro'],
  [0.15, 'gemini-2.5-flash'],
  [0.05, 'gemini-2.0-flash'],
  [1.25, 'gemini-1.5-pro-latest'],
  [0.135, 'deepseek-chat deepseek-coder'],
  [0.275, 'deepseek-reasoner'],
  [1.5, 'grok-3-beta'],
  [0.15, 'grok-3-mini-beta'],
  [0.01, 'text-embedding-3-small'],
  [0.065, 'text-embedding-3-large'],
  [0.05, 'text-embedding-ada-002'],
])

export const DEFAULT_COMPLETION_RATIO = table([
  [2, 'gpt-4-gizmo-* gpt-4-all'],
  [3, 'gpt-4o-gizmo-*'],
  [8, 'gpt-image-1'],
])

export const DEFAULT_CACHE_RATIO = table([
  [0.5, `${GPT_4O} ${GPT_4O_MINI} ${REALTIME} ${REALTIME_MINI} gpt-4.5-preview`],
  [0.5, 'o1 o1-2024-12-17 o1-preview o1-preview-2024-09-12 o1-mini o1-mini-2024-09-12 o1-pro o1-pro-2025-03-19'],
  [0.5, 'o3-mini o3-mini-2025-01-31'],
  [0.25, `${GPT_41} ${DEEPSEEK}`],
  [0.1, 'gpt-5 gpt-5-2025-08-07 gpt-5-chat-latest gpt-5-mini gpt-5-mini-2025-08-07 gpt-5-nano gpt-5-nano-2025-08-07'],
  [0.1, `gpt-5.5 ${GPT_56} ${CLAUDE} gemini-3-pro-preview gemini-3-flash-preview`],
])

export const DEFAULT_CREATE_CACHE_RATIO = table([[1.25, `${CLAUDE} ${GPT_56}`]])

export const DEFAULT_IMAGE_RATIO = table([[2, 'gpt-image-1']])

export const DEFAULT_AUDIO_RATIO = table([
  [16, AUDIO],
  [66.67, 'gpt-4o-mini-audio-preview gpt-4o-mini-audio-preview-2024-12-17'],
  [8, REALTIME],
  [16.67, REALTIME_MINI],
  [25, 'gpt-4o-mini-tts'],
])

export const DEFAULT_AUDIO_COMPLETION_RATIO = table([
  [2, `${REALTIME} ${REALTIME_MINI}`],
  [1, 'gpt-4o-mini-tts'],
  [0, 'tts-1 tts-1-1106 tts-1-hd tts-1-hd-1106'],
])

/** USD per call; for video models, per second. */
export const DEFAULT_MODEL_PRICE = table([
  [0.04, 'dall-e-3 flux-1.1-pro'],
  [0.03, 'imagen-3.0-generate-002'],
  [0.1, `gpt-4-gizmo-* suno_music ${MJ_ACTIONS}`],
  [0.3, 'gpt-4o-mini-tts sora-2'],
  [0.5, 'sora-2-pro'],
  [0.01, 'suno_lyrics'],
  [0.8, 'mj_video'],
  [0.05, 'mj_upscale mj_describe mj_upload swap_face'],
  [0, 'mj_inpaint mj_custom_zoom'],
  [0.4, 'veo-3.0-generate-001 veo-3.1-generate-preview'],
  [0.15, 'veo-3.0-fast-generate-001 veo-3.1-fast-generate-preview'],
])
