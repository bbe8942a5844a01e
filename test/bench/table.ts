/** Figures and how they are shown: each beside its reference of the same round, losing ones too. */

/** What is wished for: a multiple of the reference, or a value in the row's unit. */
export type Aim =
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
  /** Why there are no values, or none of the reference, on this machine. */
  readonly missing?: string
  /** Why the values say little in this run: they are shown, and nothing is said of the aim. */
  readonly doubt?: string
}

/** The rows of one figure of the benchmark. */
export interface Section {
  readonly title: string
  readonly rows: readonly Row[]
  readonly seconds: number
  /** Why it ended without rows. */
  readonly failure?: string
}

export interface Summary {
  readonly min: number
  readonly median: number
  readonly max: number
}

/** What a row says: undefined is what cannot be said. */
export interface Verdict {
  readonly own: Summary | undefined
  readonly reference: Summary | undefined
  /** Median of the rounds. */
  readonly timesReference: number | undefined
  readonly isMet: boolean | undefined
}

export function judge({ values, reference, aim, doubt }: Row): Verdict {
  const own = summarize(values)
  // A difference of two times may be nothing or less; no multiple of that says anything.
  const isComparable = own !== undefined && reference?.every((base) => base > 0) === true
  const times = isComparable ? reference.map((base, round) => values[round]! / base) : []
  const timesReference = summarize(times)?.median
  return {
    own,
    reference: summarize(reference ?? []),
    timesReference,
    isMet: aim && !doubt ? isMet(aim, own, timesReference) : undefined,
  }
}

function isMet(aim: Aim, own: Summary | undefined, times: number | undefined): boolean | undefined {
  switch (aim.kind) {
    case 'at most':
      return own && own.median <= aim.value
    case 'at most × reference':
      return times === undefined ? undefined : times <= aim.times
    case 'at least × reference':
      return times === undefined ? undefined : times >= aim.times
  }
}

const HEAD = ['figure', 'unit', 'min', 'median', 'max', 'reference (min – max)', '× reference', 'aim', 'met']
const LEFT_COLUMNS = 2

/** All sections as Markdown, their columns of one width. */
export function formatSections(sections: readonly Section[]): string {
  const tables = sections.map(({ rows }) => rows.map(cellsOf))
  const widths = HEAD.map((title, column) => Math.max(title.length, ...tables.flat().map((row) => row[column]!.length)))
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell, at) => (at < LEFT_COLUMNS ? cell.padEnd(widths[at]!) : cell.padStart(widths[at]!))).join(' | ')} |`
  const rule = HEAD.map((_, at) => (at < LEFT_COLUMNS ? ':--' : '--:'))
  return sections
    .map(({ title, failure }, at) => {
      const notes = sections[at]!.rows.flatMap(({ missing, doubt }) => [
        ...(missing ? [`Not available: ${missing}.`] : []),
        ...(doubt ? [`In doubt: ${doubt}.`] : []),
      ])
      return [
        `## ${title}\n`,
        ...(failure ? [`It failed: ${failure}`] : [HEAD, rule, ...tables[at]!].map(line)),
        ...[...new Set(notes)].map((note) => `\n${note}`),
      ].join('\n')
    })
    .join('\n\n')
}

function cellsOf(row: Row): string[] {
  const { own, reference, timesReference, isMet } = judge(row)
  const absent = row.missing ? 'not available' : ''
  return [
    row.figure,
    row.unit,
    own ? short(own.min) : '',
    own ? short(own.median) : absent,
    own ? short(own.max) : '',
    reference
      ? `${short(reference.median)} (${short(reference.min)} – ${short(reference.max)})`
      : own && row.reference
        ? absent
        : '',
    timesReference === undefined ? '' : timesReference.toFixed(timesReference < 0.1 ? 3 : 2),
    row.aim ? sayAim(row.aim, row.unit) : '',
    row.aim ? (isMet === undefined ? '?' : isMet ? 'yes' : 'no') : '',
  ]
}

function sayAim(aim: Aim, unit: string): string {
  switch (aim.kind) {
    case 'at most':
      return `≤ ${aim.value} ${unit}`.trim()
    case 'at most × reference':
      return `≤ ${aim.times} ×`
    case 'at least × reference':
      return `≥ ${aim.times} ×`
  }
}

function summarize(values: readonly number[]): Summary | undefined {
  if (values.length === 0) return undefined
  return { min: Math.min(...values), median: median(values), max: Math.max(...values) }
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

/** Three digits or so. */
const short = (value: number): string => {
  if (value === 0) return '0'
  const size = Math.abs(value)
  return size < 10 ? value.toFixed(2) : size < 100 ? value.toFixed(1) : Math.round(value).toString()
}
