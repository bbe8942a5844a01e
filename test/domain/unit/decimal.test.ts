import { expect, test } from 'bun:test'
import { decimalOf, divideRounded, multiply, numberOf } from '../../../src/domain/billing/decimal.ts'
import { sum, weightsOf } from '../../../src/domain/billing/token-weights.ts'

test.each<[number, bigint, number]>([
  [0, 0n, 0],
  [1.25, 125n, 2],
  [-0.5, -5n, 1],
  [1e-7, 1n, 7],
  [1.5e-9, 15n, 10],
  [1e21, 10n ** 21n, 0],
  [2.5e22, 25n * 10n ** 21n, 0],
  [0.1 + 0.2, 30000000000000004n, 17],
])('%p is the decimal that a person reads', (value, coefficient, scale) => {
  expect(decimalOf(value)).toEqual({ coefficient, scale })
  expect(numberOf(decimalOf(value))).toBe(value)
})

test('what is no number is refused', () => {
  expect(() => decimalOf(Number.NaN)).toThrow(RangeError)
  expect(() => decimalOf(Number.POSITIVE_INFINITY)).toThrow(RangeError)
})

test('products are exact and stay short', () => {
  expect(multiply(decimalOf(0.1), decimalOf(0.2))).toEqual({ coefficient: 2n, scale: 2 })
  expect(multiply(decimalOf(1.25), decimalOf(1.6))).toEqual({ coefficient: 2n, scale: 0 })
})

test('halves are rounded away from zero', () => {
  const rounded = [5n, 15n, 14n, -5n, -15n, -14n, 4n].map((tenths) => divideRounded(tenths, 10n))
  expect(rounded).toEqual([1n, 2n, 1n, -1n, -2n, -1n, 0n])
})

test('sums with plain numbers equal sums with big ones, at every size', () => {
  // A fixed sequence (Lehmer), so that a failure can be repeated.
  let seed = 20_261
  const next = (below: number): number => {
    seed = (seed * 48_271) % 2_147_483_647
    return seed % below
  }
  for (let round = 0; round < 2_000; round++) {
    const factor = () => decimalOf((next(1_000_000) + 1) / 10 ** next(9))
    const weights = weightsOf({
      input: factor(),
      output: factor(),
      cacheRead: factor(),
      cacheWrite: factor(),
      cacheWrite1h: factor(),
      imageInput: factor(),
      audioInput: factor(),
      audioOutput: factor(),
    })
    const tokens = {
      input: next(10 ** next(9)),
      output: next(100_000),
      cacheRead: next(100_000),
      cacheWrite: next(1000),
      cacheWrite1h: next(1000),
      imageInput: next(100),
      audioInput: next(100),
      audioOutput: next(100),
    }
    expect(weights.quick).toBeDefined()
    expect(sum(weights, tokens)).toBe(sum({ ...weights, quick: undefined }, tokens))
  }
})
