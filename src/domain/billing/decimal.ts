/**
 * Exact decimal numbers for money: a whole coefficient over a power of ten. Prices are typed by people as decimals, and
 * binary fractions would put some charges on the wrong side of a half.
 */

/** Value: `coefficient / 10 ** scale`. */
export interface Decimal {
  readonly coefficient: bigint
  /** Digits after the point, at least 0. */
  readonly scale: number
}

/**
 * The decimal a person would write for this number: its shortest form that reads back as the same number.
 * @param value finite
 */
export function decimalOf(value: number): Decimal {
  const match = /^(-?)(\d+)(?:\.(\d+))?(?:e([+-]\d+))?$/.exec(String(value))
  if (!match) throw new RangeError(`${value} is not a finite number`)
  const [, sign = '', whole = '', fraction = '', exponent = '0'] = match
  const scale = fraction.length - Number(exponent)
  const coefficient = BigInt(sign + whole + fraction)
  return scale >= 0 ? { coefficient, scale } : { coefficient: coefficient * tenTo(-scale), scale: 0 }
}

export const multiply = (...factors: readonly Decimal[]): Decimal =>
  trimmed(
    factors.reduce((product, factor) => product * factor.coefficient, 1n),
    factors.reduce((sum, factor) => sum + factor.scale, 0),
  )

/** The coefficient this decimal has with more digits. @param scale not below its own */
export const coefficientAt = (value: Decimal, scale: number): bigint => value.coefficient * tenTo(scale - value.scale)

/** The nearest number; for display. */
export const numberOf = (value: Decimal): number => Number(`${value.coefficient}e-${value.scale}`)

/** `numerator / divisor`, halves away from zero. */
export function divideRounded(numerator: bigint, divisor: bigint): bigint {
  const quotient = numerator / divisor // Truncates towards zero.
  const rest = numerator % divisor
  const isHalfOrMore = 2n * (rest < 0n ? -rest : rest) >= divisor
  return isHalfOrMore ? quotient + (numerator < 0n ? -1n : 1n) : quotient
}

export const tenTo = (exponent: number): bigint => 10n ** BigInt(exponent)

/** Without trailing zeros after the point, so that products stay short. */
function trimmed(coefficient: bigint, scale: number): Decimal {
  let [short, digits] = [coefficient, scale]
  while (digits > 0 && short % 10n === 0n) {
    short /= 10n
    digits -= 1
  }
  return { coefficient: short, scale: digits }
}
