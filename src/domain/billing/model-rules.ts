/**
 * What is known of models by rules over their names: what output costs beside input, what Gemini asks for audio, and how
 * long an answer can be. Prices of single models are options.
 */

/** `isLocked`: a configured ratio is ignored, because the provider's price is known. */
export interface CompletionRule {
  readonly ratio: number
  readonly isLocked: boolean
}

type Rule = readonly [pattern: RegExp, ratio: number, locked?: 'locked']

/** The first that matches counts. */
const COMPLETION_RULES: readonly Rule[] = [
  [/-all$|-gizmo-\*$/, 2],
  [/^gpt-4o-2024-05-13$/, 3, 'locked'],
  [/^gpt-4o-mini-tts/, 20],
  [/^gpt-4o/, 4],
  [/^gpt-5[^.]*$/, 8, 'locked'],
  [/^gpt-5\.4-nano/, 6.25, 'locked'],
  [/^gpt-5\.4/, 6, 'locked'],
  [/^gpt-5.*\./, 6],
  [/^gpt-4\.5-preview/, 2, 'locked'],
  [/^gpt-4-turbo|gpt-4-110[56]$/, 3, 'locked'],
  [/^gpt-/, 2],
  [/^o[13]/, 4, 'locked'],
  [/^chatgpt-4o-latest$/, 3, 'locked'],
  [/claude-3|claude-sonnet-4|claude-opus-4|claude-haiku-4/, 5, 'locked'],
  [/^mistral-/, 3, 'locked'],
  [/^gemini-(?:1\.5|2\.0)/, 4, 'locked'],
  [/^gemini-2\.5-pro/, 8],
  [/^gemini-2\.5-flash-preview.*-nothinking/, 4],
  [/^gemini-2\.5-flash-preview/, 23.33],
  [/^gemini-2\.5-flash-lite/, 4],
  [/^gemini-2\.5-flash|^gemini-robotics-er-1\.5/, 8.333],
  [/^gemini-3-pro-image/, 60],
  [/^gemini-3-pro/, 6],
  [/^gemini-/, 4],
  [/^command-r$/, 3, 'locked'],
  [/^command-r-plus$/, 5, 'locked'],
  [/^command-r(?:-plus)?-08-2024$/, 4, 'locked'],
  [/^command/, 4],
  [/^ERNIE-(?:Speed-|Lite-|Character|Functions)/, 2, 'locked'],
  [/^llama2-70b-4096$/, 1.25, 'locked'],
  [/^llama3-8b-8192$/, 2, 'locked'],
  [/^llama3-70b-8192$/, 1.339, 'locked'],
]

/**
 * Output price relative to input.
 * @param configured the operator's ratio; counts before a rule that is not locked, and always for names with a slash,
 *   which are resold models whose price the original's provider does not set
 */
export function completionRule(model: string, configured: number | undefined): CompletionRule {
  if (configured !== undefined && model.includes('/')) return { ratio: configured, isLocked: false }
  const rule = COMPLETION_RULES.find(([pattern]) => pattern.test(model))
  if (rule?.[2] === 'locked') return { ratio: rule[1], isLocked: true }
  return { ratio: configured ?? rule?.[1] ?? 1, isLocked: false }
}

/** USD per million tokens of audio input, where Gemini prices it apart from text. https://ai.google.dev/gemini-api/docs/pricing */
export const geminiAudioUsd = (model: string): number | undefined =>
  model.startsWith('gemini-') ? GEMINI_AUDIO.find(([prefix]) => model.startsWith(prefix))?.[1] : undefined

const GEMINI_AUDIO = [
  ['gemini-2.5-flash-preview-native-audio', 3],
  ['gemini-2.5-flash-preview-lite', 0.5],
  ['gemini-2.5-flash', 1],
  ['gemini-2.0-flash', 0.7],
  ['gemini-robotics-er-1.5', 1],
] as const

/**
 * Most output tokens an answer of this model can have, where that is small; Infinity when not known. Only serves to
 * reserve less, so a gap in it costs nobody anything.
 */
export const maxOutputTokens = (model: string): number =>
  MAX_OUTPUT.find(([pattern]) => pattern.test(model))?.[1] ?? Number.POSITIVE_INFINITY

const MAX_OUTPUT: readonly (readonly [RegExp, number])[] = [
  [/embed|^bge-|(?:^|\/)m3e|rerank|moderation/i, 0],
  [/^gpt-4o-2024-05-13|^gpt-4-turbo|^gpt-4-1106|^gpt-4-0125|^gpt-3\.5-turbo/, 4096],
  [/^gpt-4(?:-0613)?$/, 8192],
  [/claude-3-(?:opus|sonnet|haiku)/, 4096],
  [/claude-3-5-/, 8192],
  [/^gemini-(?:1\.5|2\.0)|^deepseek-chat$/, 8192],
  [/^gpt-4o/, 16384],
  [/claude-opus-4-(?:0|1|2025)/, 32000],
  [/^gpt-4\.1/, 32768],
]
