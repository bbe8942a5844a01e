/** How Dates stand in a database: MySQL's `datetime(3)` has no zone of its own, SQLite keeps a text with an offset. */

export interface DateTimeCodec {
  readonly encode: (value: Date) => string
  readonly decode: (text: string) => Date
}

/** `2026-08-01 12:00:00.123` of a `datetime(3)`, always UTC. */
export const utcDateTime: DateTimeCodec = {
  encode: (value) => value.toISOString().replace('T', ' ').replace('Z', ''),
  decode: (text) => new Date(`${text.replace(' ', 'T')}Z`),
}

/** `2026-08-01 12:00:00.123+00:00`; read with up to nine decimals and any offset, or none (UTC). */
export const sqliteDateTime: DateTimeCodec = {
  encode: (value) => value.toISOString().replace('T', ' ').replace('Z', '+00:00'),
  decode: (text) => {
    const parts = /^(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d+))?\s*(Z|[+-]\d\d:\d\d)?/.exec(text)
    if (!parts) return new Date(text)
    const [, day, time, decimals = '', offset = 'Z'] = parts
    return new Date(`${day}T${time}.${decimals.slice(0, 3).padEnd(3, '0')}${offset}`)
  },
}

/**
 * Wall-clock time of a zone, for databases whose operator set `loc` in the DSN.
 * @param zone IANA name, e.g. `Asia/Shanghai`
 * @returns a codec; an hour that happens twice in autumn is read as one of the two
 * @throws RangeError for an unknown zone
 */
export function zonedDateTime(zone: string): DateTimeCodec {
  const format = new Intl.DateTimeFormat('en-CA', {
    timeZone: zone,
    hourCycle: 'h23',
    year: 'numeric',
    month: '2-digit',
    day: '2-digit',
    hour: '2-digit',
    minute: '2-digit',
    second: '2-digit',
    fractionalSecondDigits: 3,
  })
  /** The wall clock of the zone at a moment, as if it were UTC, ms. */
  const wallMs = (atMs: number): number => {
    const part = new Map(format.formatToParts(atMs).map(({ type, value }) => [type, value]))
    const at = (type: Intl.DateTimeFormatPartTypes): string => part.get(type) ?? '0'
    return Date.parse(
      `${at('year')}-${at('month')}-${at('day')}T${at('hour')}:${at('minute')}:${at('second')}.${at('fractionalSecond')}Z`,
    )
  }
  return {
    encode: (value) => utcDateTime.encode(new Date(wallMs(value.getTime()))),
    decode: (text) => {
      const wanted = utcDateTime.decode(text).getTime()
      // Two steps settle on the right side of a change of offset: the first guess may lie beyond it.
      const guess = wanted - (wallMs(wanted) - wanted)
      return new Date(wanted - (wallMs(guess) - guess))
    },
  }
}
