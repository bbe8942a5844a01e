/** Moments survive the way they stand in a database, whoever wrote them. */
import { describe, expect, test } from 'bun:test'
import { sqliteDateTime, utcDateTime, zonedDateTime } from '../../src/db/datetime.ts'

describe('SQLite texts', () => {
  test.each([
    ['2026-08-01 12:00:00.123456789+00:00', '2026-08-01T12:00:00.123Z'],
    ['2026-08-01 12:00:00.1+00:00', '2026-08-01T12:00:00.100Z'],
    ['2026-08-01 12:00:00+00:00', '2026-08-01T12:00:00.000Z'],
    ['2026-08-01 20:00:00.5+08:00', '2026-08-01T12:00:00.500Z'],
    ['2026-08-01T12:00:00Z', '2026-08-01T12:00:00.000Z'],
    ['2026-08-01 12:00:00', '2026-08-01T12:00:00.000Z'],
  ])('%s', (text, moment) => {
    expect(sqliteDateTime.decode(text).toISOString()).toBe(moment)
  })

  test('sort like the moments they stand for', () => {
    const moments = [0, 5, 50, 500, 1_000].map((ms) => new Date(1_785_000_000_000 + ms))
    const texts = moments.map(sqliteDateTime.encode)
    expect([...texts].sort()).toEqual(texts)
    expect(texts.map(sqliteDateTime.decode)).toEqual(moments)
  })
})

test('MySQL texts are UTC', () => {
  const moment = new Date('2026-01-02T03:04:05.678Z')
  expect(utcDateTime.encode(moment)).toBe('2026-01-02 03:04:05.678')
  expect(utcDateTime.decode('2026-01-02 03:04:05.678')).toEqual(moment)
})

describe('the clock of a zone', () => {
  test.each(['Asia/Shanghai', 'America/New_York', 'Europe/Berlin', 'Asia/Kathmandu', 'UTC'])(
    '%s is read as it was written',
    (zone) => {
      const codec = zonedDateTime(zone)
      const start = Date.parse('2026-01-01T12:30:15.250Z')
      for (let day = 0; day < 365; day++) {
        const moment = new Date(start + day * 86_400_000)
        expect(codec.decode(codec.encode(moment))).toEqual(moment)
      }
    },
  )

  test('is right around the hours that are left out and that come twice', () => {
    const codec = zonedDateTime('Europe/Berlin')
    expect(codec.decode('2026-03-29 01:59:59.000').toISOString()).toBe('2026-03-29T00:59:59.000Z')
    expect(codec.decode('2026-03-29 03:00:00.000').toISOString()).toBe('2026-03-29T01:00:00.000Z')
    expect(codec.decode('2026-10-25 01:59:59.000').toISOString()).toBe('2026-10-24T23:59:59.000Z')
    expect(['2026-10-25T00:30:00.000Z', '2026-10-25T01:30:00.000Z']).toContain(
      codec.decode('2026-10-25 02:30:00.000').toISOString(),
    )
    expect(codec.decode('2026-10-25 03:00:00.000').toISOString()).toBe('2026-10-25T02:00:00.000Z')
  })
})
