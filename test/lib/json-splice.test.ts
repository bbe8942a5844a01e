import { expect, test } from 'bun:test'
import { type Edit, findJson, spliceJson } from '../../src/lib/json-splice.ts'
import { type Random, seeded } from '../protocol/random.ts'

const encoder = new TextEncoder()
const decoder = new TextDecoder()
const splice = (text: string, ...edits: Edit[]) => decoder.decode(spliceJson(encoder.encode(text), edits))

test('a replaced value leaves every other byte alone', () => {
  const body = '{ "id": 12345678901234567890, "model" : "a\\u0062c",\n\t"x":[1.0, 1e5, {"model":"inner"}], "ü":"你好" }'
  expect(splice(body, { path: ['model'], value: '"gpt"' })).toBe(body.replace('"a\\u0062c"', '"gpt"'))
})

test('a key is found whatever its escapes, and all its duplicates are edited', () => {
  expect(splice('{"\\u006dodel":1,"a":2,"model":3}', { path: ['model'], value: '9' })).toBe(
    '{"\\u006dodel":9,"a":2,"model":9}',
  )
  expect(splice('{"speed":1,"a":2,"sp\\u0065ed":3}', { path: ['speed'], remove: true })).toBe('{"a":2}')
})

test('removing takes exactly one comma, wherever the member stands', () => {
  const edit: Edit = { path: ['x'], remove: true }
  expect(splice('{"x":1}', edit)).toBe('{}')
  expect(splice('{ "x": 1 }', edit)).toBe('{  }')
  expect(splice('{"x":1, "a":2}', edit)).toBe('{"a":2}')
  expect(splice('{"a":2 , "x":1 }', edit)).toBe('{"a":2 }')
  expect(splice('{"a":1,"x":2,"b":3}', edit)).toBe('{"a":1,"b":3}')
  expect(splice('{"x":1,"x":2}', edit)).toBe('{}')
  expect(splice('{"a":1,"x":1,"x":2}', edit)).toBe('{"a":1}')
  expect(splice('{"a":1}', edit)).toBe('{"a":1}')
})

test('an absent member is added with the parents it lacks', () => {
  const edit: Edit = { path: ['stream_options', 'include_usage'], value: 'true' }
  expect(splice('{}', edit)).toBe('{"stream_options":{"include_usage":true}}')
  expect(splice('{"a":1 }', edit)).toBe('{"a":1,"stream_options":{"include_usage":true} }')
  expect(splice('{"stream_options":{}}', edit)).toBe('{"stream_options":{"include_usage":true}}')
  expect(splice('{"stream_options":null}', edit)).toBe('{"stream_options":{"include_usage":true}}')
  expect(splice('{"stream_options":{"include_usage":false,"o":1}}', edit)).toBe(
    '{"stream_options":{"include_usage":true,"o":1}}',
  )
})

test('a nested removal touches nothing when its parent is absent or not an object', () => {
  const edit: Edit = { path: ['a', 'b'], remove: true }
  for (const body of ['{}', '{"a":1}', '{"a":[{"b":1}]}', '{"x":{"b":1}}']) expect(splice(body, edit)).toBe(body)
  expect(splice('{"a":{"b":1,"c":2},"a":{"b":3}}', edit)).toBe('{"a":{"c":2},"a":{}}')
})

test('strings are skipped over quotes, backslashes and brackets, short or long', () => {
  for (const filler of ['', 'y'.repeat(100)]) {
    for (const tail of ['\\\\', '\\"', '\\\\\\"', '}', '\\u0022', '"'.repeat(0)]) {
      const body = `{"a":"${filler}${tail}","model":"m","z":["${tail}${filler}"]}`
      expect(splice(body, { path: ['model'], value: '1' })).toBe(body.replace('"m"', '1'))
    }
  }
})

test('deep nesting costs no stack', () => {
  const deep = '['.repeat(200_000) + ']'.repeat(200_000)
  expect(splice(`{"a":${deep},"b":1}`, { path: ['b'], value: '2' })).toBe(`{"a":${deep},"b":2}`)
})

test('what is not an object, or is torn, is refused', () => {
  for (const body of ['', '[]', '1', '{"a"', '{"a":', '{"a":"x', '{"a":[1', '{"a":1', '{a:1}']) {
    expect(() => splice(body, { path: ['a'], value: '1' })).toThrow(SyntaxError)
  }
})

test('the bytes themselves come back when there is nothing to do', () => {
  const body = encoder.encode('{"a":1}')
  expect(spliceJson(body, [])).toBe(body)
  expect(spliceJson(body, [{ path: ['b'], remove: true }])).toBe(body)
})

test('raw values are found as they are written', () => {
  const body = encoder.encode('\ufeff{"n": 1.00,"a":{"b":[1, 2]},"n":12345678901234567890}')
  expect(findJson(body, ['n'])).toEqual(['1.00', '12345678901234567890'])
  expect(findJson(body, ['a', 'b'])).toEqual(['[1, 2]'])
  expect(findJson(body, ['a', 'c'])).toEqual([])
})

const KEYS = ['model', 'a', 'ключ', 'x"y', 'stream', '__proto__', '']

function randomJson(random: Random, depth: number): string {
  const space = () => random.pick(['', '', ' ', '\n  ', '\t'])
  const kind = random.int(depth > 3 ? 4 : 6)
  if (kind === 0) return JSON.stringify(random.text())
  if (kind === 1) return random.pick(['0', '-1.50', '1e5', '12345678901234567890'])
  if (kind === 2) return random.pick(['true', 'false', 'null'])
  if (kind === 3) return JSON.stringify('z'.repeat(random.int(80)) + random.text())
  const count = random.int(5)
  if (kind === 4)
    return `[${space()}${Array.from({ length: count }, () => space() + randomJson(random, depth + 1) + space()).join(',')}]`
  return randomObject(random, depth)
}

function randomObject(random: Random, depth: number): string {
  const space = () => random.pick(['', '', ' ', '\n  '])
  const members = Array.from({ length: random.int(6) }, () => {
    const key = JSON.stringify(random.pick(KEYS))
    const written = random.chance(0.2) ? key.replace('m', '\\u006d') : key
    return `${space()}${written}${space()}:${space()}${randomJson(random, depth + 1)}${space()}`
  })
  return `{${space()}${members.join(',')}}`
}

/** What an edit means, on parsed values. */
function applyEdit(value: unknown, edit: Edit, path = edit.path): unknown {
  const [key, ...others] = path as [string, ...string[]]
  const isRecord = typeof value === 'object' && value !== null && !Array.isArray(value)
  if (!isRecord && edit.remove) return value
  const entries = new Map(Object.entries(isRecord ? value : {}))
  if (others.length > 0) {
    const child = applyEdit(entries.get(key), edit, others)
    if (child !== undefined) entries.set(key, child)
  } else if (edit.remove) entries.delete(key)
  else entries.set(key, JSON.parse(edit.value as string))
  return Object.fromEntries(entries)
}

test('on random documents the result parses to the edited value, and what is put back leaves no trace', () => {
  for (let seed = 1; seed <= 3000; seed++) {
    const random = seeded(seed)
    const body = `${random.pick(['', ' ', '\n'])}${randomObject(random, 0)}`
    const path = Array.from({ length: 1 + random.int(2) }, () => random.pick(KEYS))
    const edit: Edit = random.chance(0.5) ? { path, remove: true } : { path, value: randomJson(random, 2) }
    const result = splice(body, edit)
    expect({ seed, value: JSON.parse(result) }).toEqual({ seed, value: applyEdit(JSON.parse(body), edit) as object })
    // A value that is replaced and put back leaves the very same bytes.
    const [raw, ...more] = findJson(encoder.encode(body), path)
    if (raw !== undefined && more.length === 0 && path.length === 1) {
      expect(splice(splice(body, { path, value: '"other"' }), { path, value: raw })).toBe(body)
    }
  }
})
