/** How often and how much a client may ask. Nothing outside this folder reaches past this file. */
export {
  type Admission,
  type Asking,
  type CallLimits,
  createCallLimits,
  type Outcome,
  type Standing,
} from './calls.ts'
export { boundsOf, type LimitInput, limitColumns, limitView } from './columns.ts'
export { type Counts, createCounts } from './counts.ts'
export { type Bounds, type Limits, limitsOf } from './limit.ts'
export { createWebLimits, type WebLimit, type WebLimitName, type WebLimits } from './web.ts'
