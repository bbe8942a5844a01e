/** Conditions of override operations: comparisons of what a path holds, joined by AND or OR. */
import { isRecord } from './channel.ts'
import { PathError } from './json-path.ts'

export type Logic = 'AND' | 'OR'
/** A list of `{path, mode, value, invert, pass_missing_key}`, or an object `{path: value}` meaning that all are equal. */
export type Conditions = unknown
export const logicOf = (value: unknown, fallback: Logic): Logic =>
  typeof value === 'string' && /^(and|or)$/i.test(value) ? (value.toUpperCase() as Logic) : fallback

/** @returns the value in a box, undefined when nothing is there */
export type LookUp = (path: string) => { readonly value: unknown } | undefined

/** @throws PathError on a condition that cannot be judged */
export const holds = (conditions: Conditions, logic: Logic, lookUp: LookUp): boolean => {
  if (conditions === undefined || conditions === null) return true
  if (isRecord(conditions)) {
    return Object.entries(conditions).every(([path, value]) => isMet({ path, mode: 'full', value }, lookUp))
  }
  if (!Array.isArray(conditions)) throw new PathError('conditions is neither a list nor an object')
  if (conditions.length === 0) return true
  const judge = (condition: unknown): boolean => {
    if (!isRecord(condition)) throw new PathError('a condition is not an object')
    return isMet(condition, lookUp)
  }
  return logic === 'AND' ? conditions.every(judge) : conditions.some(judge)
}

const isMet = (condition: Record<string, unknown>, lookUp: LookUp): boolean => {
  const found = lookUp(String(condition.path ?? ''))
  // Absence is judged before `invert`: "not equal" is not met by what is not there.
  if (!found) return condition.pass_missing_key === true
  const compare = MODES[String(condition.mode ?? 'full')]
  if (!compare) throw new PathError(`unknown condition mode ${condition.mode}`)
  return compare(found.value, condition.value) !== (condition.invert === true)
}

type Compare = (actual: unknown, expected: unknown) => boolean

const asText = (value: unknown): string => (typeof value === 'string' ? value : JSON.stringify(value))

const numbers = (compare: (actual: number, expected: number) => boolean): Compare => {
  return (actual, expected) => {
    if (typeof actual !== 'number' || typeof expected !== 'number') throw new PathError('only numbers have an order')
    return compare(actual, expected)
  }
}

const MODES: Readonly<Record<string, Compare>> = {
  full: (actual, expected) => {
    if (kindOf(actual) !== kindOf(expected))
      throw new PathError(`${kindOf(actual)} is compared with ${kindOf(expected)}`)
    return Bun.deepEquals(actual, expected)
  },
  prefix: (actual, expected) => asText(actual).startsWith(asText(expected)),
  suffix: (actual, expected) => asText(actual).endsWith(asText(expected)),
  contains: (actual, expected) => asText(actual).includes(asText(expected)),
  gt: numbers((actual, expected) => actual > expected),
  gte: numbers((actual, expected) => actual >= expected),
  lt: numbers((actual, expected) => actual < expected),
  lte: numbers((actual, expected) => actual <= expected),
}

const kindOf = (value: unknown): string =>
  value === null || value === undefined ? 'null' : Array.isArray(value) ? 'array' : typeof value
