/** What a model costs before groups: read from the price options and the rules over model names. */
import { GatewayError } from '../../errors.ts'
import { normaliseModel } from '../channels/index.ts'
import type { Options } from '../options/index.ts'
import { type CompletionRule, completionRule, geminiAudioUsd } from './model-rules.ts'

/** By tokens; all ratios but `modelRatio` are relative to it. */
export interface TokenRates {
  readonly mode: 'ratio'
  readonly modelRatio: number
  readonly completionRatio: number
  readonly cacheRatio: number
  /** Writes that live 5 minutes, or a time that was not stated. */
  readonly cacheWriteRatio: number
  /** Undefined: image input costs what text does. */
  readonly imageRatio: number | undefined
  /** Undefined: audio costs what text does. */
  readonly audio: { readonly inputRatio: number; readonly completionRatio: number } | undefined
  /** USD per million tokens of audio input; replaces the ratio of audio input. */
  readonly audioInputUsd: number | undefined
}
export interface CallRates {
  readonly mode: 'per-call'
  readonly usdPerCall: number
}
/** Later ways to price (expressions, tasks) are further members. */
export type Rates = TokenRates | CallRates

/** Factor of a model that may be called without a price: dear enough to be noticed. */
const UNPRICED_RATIO = 37.5
const DEFAULT_CACHE_WRITE_RATIO = 1.25
/** A write that lives an hour costs this much more than one of five minutes; Anthropic's list price, 2 ÷ 1.25. */
export const HOUR_WRITE_FACTOR = 1.6

/**
 * @param mayBeUnpriced a model without price gets the factor for such; otherwise it is refused
 * @throws GatewayError model_price_error
 */
export function getRates(options: Pick<Options, 'get'>, model: string, mayBeUnpriced: boolean): Rates {
  if (options.get('billing_setting.billing_mode')[model] === 'tiered_expr') {
    throw new GatewayError('model_price_error', {
      public: `Model ${model} is priced by an expression, which is not supported`,
    })
  }
  const name = normaliseModel(model)
  const usdPerCall = options.get('ModelPrice')[name]
  if (usdPerCall !== undefined) return { mode: 'per-call', usdPerCall }
  const modelRatio = options.get('ModelRatio')[name] ?? (mayBeUnpriced ? UNPRICED_RATIO : undefined)
  if (modelRatio === undefined) throw new GatewayError('model_price_error', { params: { model } })
  const [audioInput, audioOutput] = [options.get('AudioRatio')[name], options.get('AudioCompletionRatio')[name]]
  return {
    mode: 'ratio',
    modelRatio,
    completionRatio: completionRatioOf(options, name).ratio,
    cacheRatio: options.get('CacheRatio')[name] ?? 1,
    cacheWriteRatio: options.get('CreateCacheRatio')[name] ?? DEFAULT_CACHE_WRITE_RATIO,
    imageRatio: options.get('ImageRatio')[name],
    audio:
      audioInput === undefined && audioOutput === undefined
        ? undefined
        : { inputRatio: audioInput ?? 1, completionRatio: audioOutput ?? 1 },
    audioInputUsd: geminiAudioUsd(name),
  }
}

/** Is there a price, so that a model may be listed and called? */
export function hasRates(options: Pick<Options, 'get'>, model: string): boolean {
  if (options.get('billing_setting.billing_mode')[model] === 'tiered_expr') return false
  const name = normaliseModel(model)
  return (
    options.get('SelfUseModeEnabled') ||
    options.get('ModelPrice')[name] !== undefined ||
    options.get('ModelRatio')[name] !== undefined
  )
}

export const completionRatioOf = (options: Pick<Options, 'get'>, name: string): CompletionRule =>
  completionRule(name, options.get('CompletionRatio')[name])
