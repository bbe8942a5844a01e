/** Redis may be away, refuse or fall silent: callers get the node's own answers soon, never an error, and Redis again when it is back. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock } from '../../src/lib/clock.ts'
import { silentLog } from '../../src/lib/log.ts'
import { createMemoryState, openRedisState, type State } from '../../src/state/index.ts'
import { HAS_SERVERS } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import { freePort, spawnTied } from '../support/services.ts'

const open = (port: number): Promise<State> =>
  openRedisState({
    address: `redis://127.0.0.1:${port}`,
    prefix: 'test:',
    fallback: createMemoryState({ clock: systemClock, log: silentLog }),
    log: silentLog,
    connectWaitMs: 300,
  })

/** Every operation answers, and within the bound. */
async function expectServed(state: State, withinMs: number): Promise<void> {
  const startedAt = performance.now()
  await state.set('key', 'own')
  expect(await state.get('key')).toBe('own')
  expect(await state.add(`sum ${crypto.randomUUID()}`, 2, 60_000)).toBe(2)
  const heard = Promise.withResolvers<string>()
  const end = state.subscribe('topic', heard.resolve)
  await state.publish('topic', 'message')
  expect(await heard.promise).toBe('message')
  end()
  await state.delete('key')
  expect(await state.get('key')).toBeUndefined()
  expect(performance.now() - startedAt).toBeLessThan(withinMs)
}

test('a node starts without its Redis and serves', async () => {
  const state = await open(await freePort())
  expect(state.isUp()).toBe(false)
  await expectServed(state, 500)
  await state.close()
})

if (HAS_SERVERS) {
  describe('a server that fails', () => {
    let port: number
    let folder: string
    let server: Bun.Subprocess
    const startServer = (): void => {
      server = spawnTied(
        ['redis-server', '--port', String(port), '--bind', '127.0.0.1', '--dir', folder, '--save', ''],
        join(folder, 'out'),
      )
    }
    beforeAll(async () => {
      port = await freePort()
      folder = await mkdtemp(join(tmpdir(), 'headgate-redis-outage-'))
      startServer()
    }, 30_000)
    afterAll(async () => {
      server.kill('SIGKILL')
      await server.exited
      await rm(folder, { recursive: true, force: true })
    })

    test('falls silent: one call waits a second, none fails, and it is used again soon after it wakes', async () => {
      const state = await open(port)
      await eventually('Redis is used', () => state.isUp())
      server.kill('SIGSTOP')
      await expectServed(state, 2_500)
      await expectServed(state, 200)
      server.kill('SIGCONT')
      await eventually('Redis is used again', () => state.isUp(), { withinMs: 5_000 })
      await state.set('after', 'x')
      expect(await state.get('after')).toBe('x')
      await state.close()
    }, 20_000)

    test('is killed and comes back: calls go on, and messages flow between nodes again', async () => {
      const [a, b] = [await open(port), await open(port)]
      server.kill('SIGKILL')
      await server.exited
      await eventually('the outage is noticed', () => !a.isUp() && !b.isUp())
      await expectServed(a, 500)
      startServer()
      await eventually('Redis is used again', () => a.isUp() && b.isUp(), { withinMs: 5_000 })
      const heard: string[] = []
      b.subscribe('across', (text) => heard.push(text))
      await eventually('the other node hears', async () => {
        await a.publish('across', 'hello')
        return heard.length > 0
      })
      await a.close()
      await b.close()
    }, 20_000)
  })
}
