/**
 * Counts and histograms in memory, and how Prometheus reads them. Several processes tell theirs as plain data, which are
 * joined to one text.
 * @source https://prometheus.io/docs/instrumenting/exposition_formats/ (version 0.0.4)
 */

export type Join = 'sum' | 'max' | 'min'

/** One figure of one process, as it travels to another. */
export interface Figure {
  readonly name: string
  readonly help: string
  readonly type: 'counter' | 'gauge' | 'histogram'
  /** How the same sample of several processes becomes one. */
  readonly join: Join
  /** What follows the name, as it is written (`_count{stream="yes"}`), and its value. */
  readonly samples: readonly (readonly [text: string, value: number])[]
}

interface Named {
  readonly name: string
  readonly help: string
  /** Names of the labels; their values come in this order. */
  readonly labels: readonly string[]
}

export interface Counter {
  add(values: readonly string[], count: number): void
  tell(): Figure
}

export interface Histogram {
  observe(values: readonly string[], value: number): void
  tell(): Figure
}

export const FIGURES_CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8'

/** Without labels it shows from its start, as 0. */
export function createCounter({ name, help, labels }: Named): Counter {
  const cells = createCells(labels, () => ({ count: 0 }))
  if (labels.length === 0) cells.of([])
  return {
    add(values, count) {
      cells.of(values).count += count
    },
    tell: () => ({
      name,
      help,
      type: 'counter',
      join: 'sum',
      samples: cells.all().map(({ labelText, cell }) => [inBraces(labelText), cell.count]),
    }),
  }
}

/** @param bounds upper bounds of the buckets, rising; one without a bound comes behind them */
export function createHistogram({
  name,
  help,
  labels,
  bounds,
}: Named & { readonly bounds: readonly number[] }): Histogram {
  const cells = createCells(labels, () => ({ sum: 0, count: 0, buckets: bounds.map(() => 0) }))
  return {
    observe(values, value) {
      const cell = cells.of(values)
      cell.sum += value
      cell.count++
      const at = bounds.findIndex((bound) => value <= bound)
      if (at >= 0) cell.buckets[at]!++
    },
    tell: () => ({
      name,
      help,
      type: 'histogram',
      join: 'sum',
      samples: cells.all().flatMap(({ labelText, cell }) => {
        const bucket = (bound: string, count: number): readonly [string, number] => [
          `_bucket${inBraces(joined(`le="${bound}"`, labelText))}`,
          count,
        ]
        // Kept apart, told as how many are at most so large.
        let atMost = 0
        const buckets = bounds.map((bound, at) => {
          atMost += cell.buckets[at]!
          return bucket(String(bound), atMost)
        })
        return [
          ...buckets,
          bucket('+Inf', cell.count),
          [`_sum${inBraces(labelText)}`, cell.sum] as const,
          [`_count${inBraces(labelText)}`, cell.count] as const,
        ]
      }),
    }),
  }
}

/** @returns samples of a figure with one label, by its value */
export const samplesBy = (label: string, values: Readonly<Record<string, number>>): Figure['samples'] =>
  Object.entries(values).map(([value, figure]) => [inBraces(pair(label, value)), figure])

/** @returns the text of a sample with these labels */
export const labelled = (labels: Readonly<Record<string, string>>): string =>
  inBraces(joined(...Object.entries(labels).map(([label, value]) => pair(label, value))))

/**
 * @param told of each process its figures; a figure that only some have is joined over those
 * @returns the text that Prometheus scrapes
 */
export function writeFigures(told: readonly (readonly Figure[])[]): string {
  const byName = new Map<string, { readonly figure: Figure; readonly samples: Map<string, number> }>()
  for (const figure of told.flat()) {
    const entry = byName.get(figure.name) ?? { figure, samples: new Map<string, number>() }
    byName.set(figure.name, entry)
    for (const [text, value] of figure.samples) {
      // What is not finite does not survive its way from another process as JSON.
      if (!Number.isFinite(value)) continue
      const before = entry.samples.get(text)
      entry.samples.set(text, before === undefined ? value : JOINS[figure.join](before, value))
    }
  }
  return [...byName.values()]
    .map(({ figure: { name, help, type }, samples }) => {
      const lines = [...samples].map(([text, value]) => `${name}${text} ${value}\n`)
      return `# HELP ${name} ${help.replaceAll('\\', '\\\\').replaceAll('\n', '\\n')}\n# TYPE ${name} ${type}\n${lines.join('')}`
    })
    .join('\n')
}

const JOINS: Readonly<Record<Join, (a: number, b: number) => number>> = {
  sum: (a, b) => a + b,
  max: Math.max,
  min: Math.min,
}

/** One cell per combination of label values. */
function createCells<Cell>(labels: readonly string[], create: () => Cell) {
  const cells = new Map<string, { readonly labelText: string; readonly cell: Cell }>()
  /** Of most figures what was counted last comes again. */
  let last: { readonly values: readonly string[]; readonly cell: Cell } | undefined

  const find = (values: readonly string[]): Cell => {
    const key = values.join('\0')
    const known = cells.get(key)
    if (known) return known.cell
    const labelText = joined(...labels.map((label, at) => pair(label, values[at] ?? '')))
    const cell = create()
    cells.set(key, { labelText, cell })
    return cell
  }
  return {
    of(values: readonly string[]): Cell {
      if (!last || !isSame(last.values, values)) last = { values, cell: find(values) }
      return last.cell
    },
    all: () => [...cells.values()],
  }
}

function isSame(a: readonly string[], b: readonly string[]): boolean {
  for (let at = 0; at < a.length; at++) if (a[at] !== b[at]) return false
  return true
}

const pair = (label: string, value: string): string =>
  `${label}="${value.replaceAll('\\', '\\\\').replaceAll('\n', '\\n').replaceAll('"', '\\"')}"`
const joined = (...pairs: readonly string[]): string => pairs.filter((text) => text !== '').join(',')
const inBraces = (pairs: string): string => (pairs === '' ? '' : `{${pairs}}`)
