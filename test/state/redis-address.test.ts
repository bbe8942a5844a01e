/** A Redis address is read as people write it, with any character in the password. */
import { expect, test } from 'bun:test'
import { parseRedisAddress, type RedisAddress } from '../../src/state/redis-address.ts'

const at = (host: string, port = 6379) => ({ places: [{ host, port }], db: 0, isTls: false })

test.each<[string, RedisAddress]>([
  [
    'redis://default:password@your-redis-host:6379',
    { ...at('your-redis-host'), username: 'default', password: 'password' },
  ],
  ['redis://h', at('h')],
  ['redis://', at('127.0.0.1')],
  ['redis://:p@ss/w#rd?,x@h:1/3', { ...at('h', 1), password: 'p@ss/w#rd?,x', db: 3 }],
  ['redis://u:p%40ss@h', { ...at('h'), username: 'u', password: 'p@ss' }],
  ['rediss://u:p@h/2', { ...at('h'), username: 'u', password: 'p', db: 2, isTls: true }],
  ['redis://[::1]:7/0', at('::1', 7)],
  [
    'redis://u:p@h1:1,h2:2,[::1],h4/5',
    {
      places: [
        { host: 'h1', port: 1 },
        { host: 'h2', port: 2 },
        { host: '::1', port: 6379 },
        { host: 'h4', port: 6379 },
      ],
      username: 'u',
      password: 'p',
      db: 5,
      isTls: false,
    },
  ],
  [
    'unix://u:p@/run/redis.sock?db=4',
    { places: [], path: '/run/redis.sock', username: 'u', password: 'p', db: 4, isTls: false },
  ],
])('%s', (address, parsed) => {
  expect(parseRedisAddress(address)).toEqual(parsed)
})

test('REDIS_PASSWORD counts if the address has none', () => {
  expect(parseRedisAddress('redis://h', 'extra').password).toBe('extra')
  expect(parseRedisAddress('redis://:own@h', 'extra').password).toBe('own')
})

test('what cannot be read is refused without showing the password', () => {
  for (const address of [
    'http://u:hunter2@h',
    'redis://u:hunter2@h:1/name',
    'redis://u:hunter2@h,g:x',
    'redis://u:hunter2@h:port',
  ]) {
    expect(() => parseRedisAddress(address)).toThrow(
      expect.objectContaining({ message: expect.not.stringContaining('hunter2') }),
    )
  }
})
