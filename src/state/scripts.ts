/**
 * What Redis does in one step, as scripts of one key each, so that they run on a Redis Cluster too. They go by the
 * server's clock (`TIME`), which all nodes share. Numbers that become names or values are formatted whole: Lua would
 * write large ones with an exponent.
 * @source https://redis.io/docs/latest/develop/programmability/eval-intro/
 */
import { createHash } from 'node:crypto'

export interface Script {
  readonly text: string
  /** How `EVALSHA` names it. */
  readonly sha: string
}

const script = (text: string): Script => ({ text, sha: createHash('sha1').update(text).digest('hex') })

const NOW = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function whole(number) return string.format('%.0f', number) end
`

/** A counter that lives from its first add. ARGV: n, ms to live. @returns the sum */
export const ADD = script(`
redis.call('SET', KEYS[1], 0, 'PX', ARGV[2], 'NX')
return redis.call('INCRBY', KEYS[1], ARGV[1])
`)

/** A hash: beginning of a step in ms → amount. As in `window.ts`, which says why. */
const WINDOW = `${NOW}
local key = KEYS[1]
local n, window, step = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local used, parts = 0, {}
local flat = redis.call('HGETALL', key)
for i = 1, #flat, 2 do
  local start, amount = tonumber(flat[i]), tonumber(flat[i + 1])
  if start + step + window <= now then
    redis.call('HDEL', key, flat[i])
  else
    used = used + amount
    parts[#parts + 1] = { start = start, amount = amount }
  end
end
local function by_age()
  table.sort(parts, function(a, b) return a.start < b.start end)
  return ipairs(parts)
end
local function add()
  if n == 0 then return end
  redis.call('HINCRBY', key, whole(now - now % step), whole(n))
  redis.call('PEXPIRE', key, whole(window + step))
end
`

/** ARGV: n, window ms, step ms, limit. @returns taken (0 or 1), used, ms to wait */
export const TAKE = script(`${WINDOW}
local limit = tonumber(ARGV[4])
local wanted = math.max(n, 1)
if used + wanted <= limit then
  add()
  return { 1, used + n, 0 }
end
local rest = used + wanted - limit
for _, part in by_age() do
  rest = rest - part.amount
  if rest <= 0 then return { 0, used, part.start + step + window - now } end
end
return { 0, used, window }
`)

/** ARGV: n, window ms, step ms */
export const CORRECT = script(`${WINDOW}
if n >= 0 then
  add()
  return
end
local rest = -n
for _, part in by_age() do
  local off = math.min(part.amount, rest)
  rest = rest - off
  if off == part.amount then
    redis.call('HDEL', key, whole(part.start))
  else
    redis.call('HSET', key, whole(part.start), whole(part.amount - off))
  end
  if rest == 0 then return end
end
`)

/** A sorted set: holder → ms at which its hold ends. ARGV: holder, limit, ms to live. @returns 1 if it holds, else 0 */
export const HOLD = script(`${NOW}
local key, holder, ttl = KEYS[1], ARGV[1], tonumber(ARGV[3])
redis.call('ZREMRANGEBYSCORE', key, '-inf', whole(now))
if not redis.call('ZSCORE', key, holder) and redis.call('ZCARD', key) >= tonumber(ARGV[2]) then return 0 end
redis.call('ZADD', key, whole(now + ttl), holder)
redis.call('PEXPIREAT', key, whole(redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')[2]))
return 1
`)
