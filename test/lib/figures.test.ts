import { describe, expect, test } from 'bun:test'
import { createCounter, createHistogram, labelled, samplesBy, writeFigures } from '../../src/lib/figures.ts'

describe('figures', () => {
  test('a counter without labels shows from its start, one with labels when something was counted', () => {
    const plain = createCounter({ name: 'plain_total', help: 'Plain', labels: [] })
    const by = createCounter({ name: 'by_total', help: 'By', labels: ['a', 'b'] })
    expect(writeFigures([[plain.tell(), by.tell()]])).toBe(
      '# HELP plain_total Plain\n# TYPE plain_total counter\nplain_total 0\n\n# HELP by_total By\n# TYPE by_total counter\n',
    )
    plain.add([], 2)
    by.add(['x', 'y'], 1)
    by.add(['x', 'y'], 3)
    by.add(['x', ''], 1)
    for (let turn = 0; turn < 3; turn++) {
      by.add(['one', 'and'], 1)
      by.add(['and', 'one'], 2)
    }
    const text = writeFigures([[plain.tell(), by.tell()]])
    expect(text).toContain('plain_total 2\n')
    expect(text).toContain('by_total{a="x",b="y"} 4\nby_total{a="x",b=""} 1\n')
    expect(text).toContain('by_total{a="one",b="and"} 3\nby_total{a="and",b="one"} 6\n')
  })

  test('whatever a label holds, it stays within its quotes', () => {
    const counter = createCounter({ name: 'c', help: 'one\ntwo \\', labels: ['a'] })
    counter.add(['quote " back \\ line \n end'], 1)
    expect(writeFigures([[counter.tell()]])).toBe(
      '# HELP c one\\ntwo \\\\\n# TYPE c counter\nc{a="quote \\" back \\\\ line \\n end"} 1\n',
    )
  })

  test('a histogram counts in each bucket what is at most so large, and all in the last', () => {
    const histogram = createHistogram({ name: 'h', help: 'H', labels: ['a'], bounds: [0.1, 1] })
    for (const value of [0.1, 0.5, 1, 7]) histogram.observe(['x'], value)
    expect(writeFigures([[histogram.tell()]])).toBe(
      [
        '# HELP h H',
        '# TYPE h histogram',
        'h_bucket{le="0.1",a="x"} 1',
        'h_bucket{le="1",a="x"} 3',
        'h_bucket{le="+Inf",a="x"} 4',
        'h_sum{a="x"} 8.6',
        'h_count{a="x"} 4',
        '',
      ].join('\n'),
    )
  })

  test('the figures of several processes are joined sample by sample, each in its way', () => {
    const told = (count: number) => {
      const counter = createCounter({ name: 'c_total', help: 'C', labels: ['a'] })
      counter.add([`of ${count}`], count)
      counter.add(['both'], count)
      const gauge = (join: 'max' | 'min') =>
        ({ name: join, help: join, type: 'gauge', join, samples: samplesBy('a', { x: count }) }) as const
      return JSON.parse(JSON.stringify([counter.tell(), gauge('max'), gauge('min')]))
    }
    const text = writeFigures([told(1), told(5)])
    expect(text).toContain('c_total{a="of 1"} 1\nc_total{a="both"} 6\nc_total{a="of 5"} 5\n')
    expect(text).toContain('max{a="x"} 5\n')
    expect(text).toContain('min{a="x"} 1\n')
  })

  test('what is not finite is left out', () => {
    const samples = samplesBy('a', { high: Infinity, low: -Infinity, none: Number.NaN })
    const text = writeFigures([[{ name: 'g', help: 'G', type: 'gauge', join: 'max', samples }]])
    expect(text).not.toContain('g{')
    expect(labelled({ a: 'x', b: 'y' })).toBe('{a="x",b="y"}')
  })
})
