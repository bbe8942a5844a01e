/** A Redis address is read as people write it, with any character in the password. */
import { expect, test } from 'bun:test'
import { parseRedisAddress } from '../../src/state/redis-address.ts'

test.each([
  [
    'redis://default:password@your-redis-host:6379',
    { host: 'your-redis-host', port: 6379, username: 'default', password: 'password', db: 0 },
  ],
  ['redis://h', { host: 'h', port: 6379, db: 0 }],
  ['redis://:p@ss/w#rd?@h:1/3', { host: 'h', port: 1, password: 'p@ss/w#rd?', db: 3 }],
  ['redis://u:p%40ss@h', { host: 'h', port: 6379, username: 'u', password: 'p@ss', db: 0 }],
  ['rediss://u:p@h/2', { host: 'h', port: 6379, username: 'u', password: 'p', db: 2, tls: { servername: 'h' } }],
  ['redis://[::1]:7/0', { host: '::1', port: 7, db: 0 }],
  ['unix://u:p@/run/redis.sock?db=4', { path: '/run/redis.sock', username: 'u', password: 'p', db: 4 }],
])('%s', (address, options) => {
  expect(parseRedisAddress(address)).toEqual(options)
})

test('REDIS_PASSWORD counts if the address has none', () => {
  expect(parseRedisAddress('redis://h', 'extra').password).toBe('extra')
  expect(parseRedisAddress('redis://:own@h', 'extra').password).toBe('own')
})

test('what cannot be read is refused without showing the password', () => {
  for (const address of ['http://u:hunter2@h', 'redis://u:hunter2@h:1/name', 'redis://u:hunter2@h:port']) {
    expect(() => parseRedisAddress(address)).toThrow(
      expect.objectContaining({ message: expect.not.stringContaining('hunter2') }),
    )
  }
})
