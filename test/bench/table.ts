/** Figures and how they are shown: each beside its reference of the same round, losing ones too. */

/** What is wished for: a multiple of the reference, or a value in the row's unit. */
type Aim =
  | { readonly kind: 'at most × reference' | 'at least × reference'; readonly times: number }
  | { readonly kind: 'at most'; readonly value: number }

export interface Row {
  readonly figure: string
  readonly unit: string
  /** One value per round. */
  readonly values: readonly number[]
  /** The reference's values of the same rounds, in the same unit. */
  readonly reference?: readonly number[]
  readonly aim?: Aim
}

export function formatTable(rows: readonly Row[]): string {
  const head = ['figure', 'unit', 'min', 'median', 'max', 'reference (min – max)', '× reference', 'aim', 'met']
  const cells = [head, head.map((_, column) => (column < 2 ? ':--' : '--:')), ...rows.map(cellsOf)]
  const widths = head.map((_, column) => Math.max(...cells.map((row) => row[column]!.length)))
  return cells
    .map(
      (row) =>
        `| ${row.map((cell, at) => (at < 2 ? cell.padEnd(widths[at]!) : cell.padStart(widths[at]!))).join(' | ')} |`,
    )
    .join('\n')
}

function cellsOf({ figure, unit, values, reference, aim }: Row): string[] {
  const times = reference && median(values.map((value, round) => value / reference[round]!))
  return [
    figure,
    unit,
    short(Math.min(...values)),
    short(median(values)),
    short(Math.max(...values)),
    reference
      ? `${short(median(reference))} (${short(Math.min(...reference))} – ${short(Math.max(...reference))})`
      : '',
    times === undefined ? '' : times.toFixed(2),
    ...(aim ? judge(aim, median(values), times ?? Number.NaN, unit) : ['', '']),
  ]
}

/** @returns the aim in words, and whether it was met */
function judge(aim: Aim, value: number, times: number, unit: string): [string, string] {
  const say = (isMet: boolean): string => (isMet ? 'yes' : 'no')
  switch (aim.kind) {
    case 'at most':
      return [`≤ ${aim.value} ${unit}`.trim(), say(value <= aim.value)]
    case 'at most × reference':
      return [`≤ ${aim.times} ×`, say(times <= aim.times)]
    case 'at least × reference':
      return [`≥ ${aim.times} ×`, say(times >= aim.times)]
  }
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

const short = (value: number): string =>
  value === 0 ? '0' : value < 100 ? value.toFixed(1) : Math.round(value).toString()
