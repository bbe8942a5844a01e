/**
 * From usage to quota units and from a request to what must be reserved for it. Pure over the options: no I/O, no clock.
 * Exact: ratios are decimals, sums are whole numbers, and one rounding ends each calculation.
 */
import { GatewayError } from '../../errors.ts'
import type { Usage } from '../../protocol/ir.ts'
import { groupRatio, type Options, type OptionsState, specialGroupRatio } from '../options/index.ts'
import { type Decimal, decimalOf, divideRounded, multiply, tenTo } from './decimal.ts'
import { maxOutputTokens } from './model-rules.ts'
import { callFields, tokenFields } from './price-fields.ts'
import {
  type CallRates,
  completionRatioOf,
  getRates,
  HOUR_WRITE_FACTOR,
  hasRates,
  type Rates,
  type TokenRates,
} from './rates.ts'
import { count, KINDS, sum, tokensByKind, type Weights, weightsOf } from './token-weights.ts'

interface PriceBase {
  readonly model: string
  readonly groupRatio: number
  /** The factor is one for this user group in this group; undefined when it is the group's own. */
  readonly userGroupRatio: number | undefined
  /** Nothing can cost anything: no hold is needed. */
  readonly isFree: boolean
}
/** By tokens. `weights` are quota units per token, groups included. */
export interface TokenPrice extends PriceBase {
  readonly mode: 'ratio'
  readonly rates: TokenRates
  readonly weights: Weights
  /** Output tokens to reserve for when the request names no maximum. */
  readonly heldOutputTokens: { readonly stream: number; readonly whole: number }
}
/** A fixed amount for each call, in quota units. */
export interface CallPrice extends PriceBase {
  readonly mode: 'per-call'
  readonly rates: CallRates
  /** Rounded, for the charge; may be above what a charge can be. */
  readonly units: bigint
  /** Truncated, for the hold. */
  readonly heldUnits: bigint
}
export type Price = TokenPrice | CallPrice

export interface PriceQuery {
  readonly model: string
  readonly userGroup: string
  readonly usingGroup: string
  /** The user agreed to call models without a price. */
  readonly acceptsUnpriced: boolean
}

export interface EstimateQuery {
  readonly inputTokens: number
  /** What the request asks for; undefined when it names no maximum. */
  readonly maxOutputTokens?: number | undefined
  readonly isStream: boolean
  /** Answers asked for (`n`); 1 when absent. */
  readonly choices?: number | undefined
}

export interface PricedCharge {
  /** Quota units, 0 … 2³¹−1. */
  readonly quota: number
  /** What the charge is made of, in the fields of `logs.other`. With a saturated charge it has an `admin_info`. */
  readonly other: Record<string, unknown>
  readonly isSaturated: boolean
  /** The prompt as the log shows it: of Anthropic's usage, the part that was not cached. */
  readonly promptTokens: number
  readonly completionTokens: number
}

export interface Prices {
  /**
   * The frozen price of a model for a user group in the group that is used.
   * @throws GatewayError model_price_error when it has none
   */
  find(query: PriceQuery): Price
  /** Price of a model before groups; undefined when it has none. */
  rates(model: string): Rates | undefined
  /** May the model be called by users who did not accept models without price? */
  has(model: string): boolean
  /**
   * Quota units to reserve: input and output at their full price, truncated; 0 for a free price, else at least 1.
   * @throws GatewayError model_price_error past 2³¹−1
   */
  estimate(price: Price, query: EstimateQuery): number
  charge(price: Price, usage: Usage): PricedCharge
  /** Output ratio of each model with a ratio, and whether it is fixed by rule. */
  completionRatios(): Readonly<Record<string, { readonly ratio: number; readonly locked: boolean }>>
}

/** Charges and holds are signed 32-bit numbers for all who read the tables. */
const MAX_UNITS = 2 ** 31 - 1
/** Names of unpriced models come from clients, so the cache must have an end. */
const MAX_CACHED = 10_000

export function createPrices(options: Pick<Options, 'get' | 'state'>): Prices {
  let cached: { readonly state: OptionsState; readonly prices: Map<string, Price> } | undefined

  const pricesOf = (state: OptionsState): Map<string, Price> => {
    if (cached?.state !== state || cached.prices.size >= MAX_CACHED) cached = { state, prices: new Map() }
    return cached.prices
  }
  const build = (query: PriceQuery): Price => {
    const rates = getRates(options, query.model, query.acceptsUnpriced || options.get('SelfUseModeEnabled'))
    const base = {
      model: query.model,
      groupRatio: groupRatio(options, query.userGroup, query.usingGroup),
      userGroupRatio: specialGroupRatio(options, query.userGroup, query.usingGroup),
    }
    const unitsPerUsd = options.get('QuotaPerUnit')
    return rates.mode === 'per-call'
      ? callPrice(base, rates, unitsPerUsd)
      : tokenPrice(base, rates, unitsPerUsd, options.get('HoldMaxOutputTokens'))
  }

  return {
    find(query) {
      const prices = pricesOf(options.state())
      const key = `${query.acceptsUnpriced ? 1 : 0}\n${query.userGroup}\n${query.usingGroup}\n${query.model}`
      let price = prices.get(key)
      if (!price) {
        price = build(query)
        prices.set(key, price)
      }
      return price
    },
    rates: (model) => (hasRates(options, model) ? getRates(options, model, true) : undefined),
    has: (model) => hasRates(options, model),
    estimate,
    charge: (price, usage) => (price.mode === 'per-call' ? chargeCall(price, usage) : chargeTokens(price, usage)),
    completionRatios() {
      const models = new Set([
        ...Object.keys(options.get('ModelRatio')),
        ...Object.keys(options.get('CompletionRatio')),
      ])
      return Object.fromEntries(
        [...models].map((model) => {
          const { ratio, isLocked } = completionRatioOf(options, model)
          return [model, { ratio, locked: isLocked }]
        }),
      )
    },
  }
}

// Prices

type Base = Omit<PriceBase, 'isFree'>

function tokenPrice(base: Base, rates: TokenRates, unitsPerUsd: number, holdMaxOutputTokens: number): TokenPrice {
  const group = decimalOf(base.groupRatio)
  const input = multiply(decimalOf(rates.modelRatio), group)
  const output = multiply(input, decimalOf(rates.completionRatio))
  const cacheWrite = multiply(input, decimalOf(rates.cacheWriteRatio))
  const audioInput = multiply(input, decimalOf(rates.audio?.inputRatio ?? 1))
  const weights = weightsOf({
    input,
    output,
    cacheRead: multiply(input, decimalOf(rates.cacheRatio)),
    cacheWrite,
    cacheWrite1h: multiply(cacheWrite, decimalOf(HOUR_WRITE_FACTOR)),
    imageInput: multiply(input, decimalOf(rates.imageRatio ?? 1)),
    audioInput:
      rates.audioInputUsd === undefined
        ? audioInput
        : multiply(decimalOf(rates.audioInputUsd), PER_MILLION, decimalOf(unitsPerUsd), group),
    audioOutput: rates.audio ? multiply(audioInput, decimalOf(rates.audio.completionRatio)) : output,
  })
  const known = maxOutputTokens(base.model)
  return Object.freeze({
    mode: 'ratio',
    ...base,
    isFree: KINDS.every((kind) => weights.exact[kind] === 0n),
    rates,
    weights,
    heldOutputTokens: {
      whole: Math.min(known, holdMaxOutputTokens),
      // A stream can extend its hold while it runs.
      stream: Math.min(known, Math.ceil(holdMaxOutputTokens / 4)),
    },
  })
}

const PER_MILLION: Decimal = { coefficient: 1n, scale: 6 }

function callPrice(base: Base, rates: CallRates, unitsPerUsd: number): CallPrice {
  const units = multiply(decimalOf(rates.usdPerCall), decimalOf(unitsPerUsd), decimalOf(base.groupRatio))
  return Object.freeze({
    mode: 'per-call',
    ...base,
    isFree: units.coefficient === 0n,
    rates,
    units: divideRounded(units.coefficient, tenTo(units.scale)),
    heldUnits: units.coefficient / tenTo(units.scale),
  })
}

// Estimate

function estimate(price: Price, query: EstimateQuery): number {
  if (price.isFree) return 0
  const units = price.mode === 'per-call' ? price.heldUnits : estimateTokens(price, query)
  if (units > MAX_UNITS) {
    throw new GatewayError('model_price_error', {
      public: `The request to model ${price.model} could cost more than a single call may; lower its maximum output`,
    })
  }
  return Math.max(1, Number(units))
}

function estimateTokens(price: TokenPrice, query: EstimateQuery): number | bigint {
  const { quick, exact, exactDivisor } = price.weights
  const inputTokens = count(query.inputTokens)
  const held = query.isStream ? price.heldOutputTokens.stream : price.heldOutputTokens.whole
  const outputTokens = count(query.maxOutputTokens ?? held) * Math.max(1, count(query.choices ?? 1))
  if (quick) {
    const total = inputTokens * quick.input + outputTokens * quick.output
    if (total <= Number.MAX_SAFE_INTEGER) return (total - (total % quick.divisor)) / quick.divisor
  }
  return (BigInt(inputTokens) * exact.input + BigInt(outputTokens) * exact.output) / exactDivisor
}

// Charge

function chargeTokens(price: TokenPrice, usage: Usage): PricedCharge {
  const tokens = tokensByKind(price.rates, usage)
  const isEmpty = KINDS.every((kind) => tokens[kind] === 0)
  const units =
    price.isFree || isEmpty ? 0 : Math.max(price.weights.exact.input > 0n ? 1 : 0, sum(price.weights, tokens))
  return charged(units, tokenFields(price, usage, tokens), usage)
}

function chargeCall(price: CallPrice, usage: Usage): PricedCharge {
  const isEmpty = count(usage.inputTokens) + count(usage.outputTokens) === 0
  return charged(isEmpty ? 0 : Number(price.units), callFields(price), usage)
}

function charged(units: number, other: Record<string, unknown>, usage: Usage): PricedCharge {
  const isSaturated = units > MAX_UNITS
  if (isSaturated) {
    other['admin_info'] = {
      quota_saturation: { op: 'settle', kind: 'overflow', original: String(units), clamped: MAX_UNITS },
    }
  }
  return {
    quota: isSaturated ? MAX_UNITS : units,
    other,
    isSaturated,
    promptTokens: usage.semantic === 'anthropic' ? uncachedInput(usage) : count(usage.inputTokens),
    completionTokens: count(usage.outputTokens),
  }
}

const uncachedInput = (usage: Usage): number =>
  Math.max(0, count(usage.inputTokens) - count(usage.cacheReadTokens) - count(usage.cacheWriteTokens))
