/** What a charge is made of, in the established fields of `logs.other`, so that a person can add the bill up. */
import type { Usage } from '../../protocol/ir.ts'
import { decimalOf, multiply, numberOf } from './decimal.ts'
import type { CallPrice, TokenPrice } from './prices.ts'
import { HOUR_WRITE_FACTOR, type TokenRates } from './rates.ts'
import { type ByKind, count } from './token-weights.ts'

export function callFields(price: CallPrice): Record<string, unknown> {
  return {
    model_ratio: 0,
    group_ratio: price.groupRatio,
    completion_ratio: 0,
    cache_tokens: 0,
    cache_ratio: 0,
    model_price: price.rates.usdPerCall,
    user_group_ratio: price.userGroupRatio ?? -1,
  }
}

export function tokenFields(price: TokenPrice, usage: Usage, tokens: ByKind<number>): Record<string, unknown> {
  const { rates } = price
  const fields: Record<string, unknown> = {
    model_ratio: rates.modelRatio,
    group_ratio: price.groupRatio,
    completion_ratio: rates.completionRatio,
    cache_tokens: tokens.cacheRead,
    cache_ratio: rates.cacheRatio,
    model_price: -1,
    user_group_ratio: price.userGroupRatio ?? -1,
  }
  const writes = tokens.cacheWrite + tokens.cacheWrite1h
  if (usage.semantic === 'anthropic') {
    fields['claude'] = true
    fields['usage_semantic'] = 'anthropic'
  }
  if (writes > 0) addCacheWrites(fields, rates, usage, writes)
  if (usage.semantic === 'anthropic' || writes > 0) fields['input_tokens_total'] = count(usage.inputTokens)
  if (tokens.imageInput > 0) {
    fields['image'] = true
    fields['image_ratio'] = rates.imageRatio
    fields['image_output'] = tokens.imageInput // The established name; it counts input.
  }
  if (tokens.audioInput > 0 && rates.audioInputUsd !== undefined) {
    fields['audio_input_seperate_price'] = true // Established spelling.
    fields['audio_input_token_count'] = tokens.audioInput
    fields['audio_input_price'] = rates.audioInputUsd
  } else if (rates.audio && tokens.audioInput + tokens.audioOutput > 0) {
    fields['audio'] = true
    fields['audio_input'] = tokens.audioInput
    fields['audio_output'] = tokens.audioOutput
    fields['text_input'] = tokens.input
    fields['text_output'] = tokens.output
    fields['audio_ratio'] = rates.audio.inputRatio
    fields['audio_completion_ratio'] = rates.audio.completionRatio
  }
  return fields
}

function addCacheWrites(fields: Record<string, unknown>, rates: TokenRates, usage: Usage, writes: number): void {
  fields['cache_creation_tokens'] = writes
  fields['cache_creation_ratio'] = rates.cacheWriteRatio
  fields['cache_write_tokens'] = writes
  if (usage.cacheWrite5mTokens > 0) {
    fields['cache_creation_tokens_5m'] = count(usage.cacheWrite5mTokens)
    fields['cache_creation_ratio_5m'] = rates.cacheWriteRatio
  }
  if (usage.cacheWrite1hTokens > 0) {
    fields['cache_creation_tokens_1h'] = count(usage.cacheWrite1hTokens)
    fields['cache_creation_ratio_1h'] = numberOf(
      multiply(decimalOf(rates.cacheWriteRatio), decimalOf(HOUR_WRITE_FACTOR)),
    )
  }
}
