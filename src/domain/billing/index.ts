/** Money: what others may use of it. The relay sees the ledger; admin verbs see the balances. */
export {
  API_KEY_STATUS,
  type CreditLogRow,
  creditBalance,
  creditLog,
  dropAllotments,
  QUOTA_CHANGED,
  quotaChanged,
  readBalances,
  setBalance,
} from './balances.ts'
export type { CallRecord } from './charge.ts'
export {
  createTokenCounter,
  estimateInputTokens,
  estimateLongInput,
  estimateTextTokens,
  type TokenCounter,
} from './estimate.ts'
export type { AccountRef, KindName } from './kinds.ts'
export { createLedger, type LedgerOptions } from './ledger.ts'
export { deliverCreditLogs } from './log-queue.ts'
export {
  createPrices,
  type EstimateQuery,
  type Price,
  type PricedCharge,
  type PriceQuery,
  type Prices,
} from './prices.ts'
export type { Rates } from './rates.ts'
export type { Hold, Ledger, LedgerStats, Payer } from './types.ts'
