/** Balances of channels: read where the kind has one, kept, and an account that holds nothing taken out of service. */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { eq } from 'drizzle-orm'
import { updateBalancesJob } from '../../src/jobs/index.ts'
import { type Node, startNode } from '../domain/channels/harness.ts'
import { ENGINES, type TestDb } from '../support/engines.ts'

const NOTHING_TO_FENCE = { fence: async () => {} }

for (const engine of ENGINES)
  describe(engine.name, () => {
    let database: TestDb
    let node: Node
    let upstream: ReturnType<typeof Bun.serve>
    const asked: string[] = []
    beforeAll(async () => {
      database = await engine.freshDb()
      node = await startNode(database.db)
      await node.options.set({ AutomaticDisableChannelEnabled: 'true' })
      upstream = Bun.serve({
        port: 0,
        hostname: '127.0.0.1',
        fetch(request) {
          const { pathname } = new URL(request.url)
          const key = request.headers.get('authorization')?.slice('Bearer '.length) ?? ''
          asked.push(`${key} ${pathname}`)
          if (key === 'broken') return new Response('no', { status: 500 })
          if (key === 'silent') return Response.json({})
          if (pathname.endsWith('/subscription')) return Response.json({ hard_limit_usd: key === 'empty' ? 2 : 10 })
          if (pathname.endsWith('/usage')) return Response.json({ total_usage: 250 })
          if (pathname === '/user/balance')
            return Response.json({
              balance_infos: [
                { currency: 'USD', total_balance: '0.00' },
                { currency: 'CNY', total_balance: '110.50' },
              ],
            })
          return Response.json({ data: { total_credits: 30, total_usage: 12.5 } })
        },
      })
    }, 120_000)
    afterAll(async () => {
      await upstream.stop(true)
      await node.stop()
      await database.close()
    }, 60_000)

    const create = async (type: number, key: string, more: Record<string, unknown> = {}): Promise<number> => {
      const base_url = `http://127.0.0.1:${upstream.port}`
      const input = { mode: 'single', channel: { type, key, name: key, models: 'm', base_url }, ...more }
      return (await node.channels.create(input))[0] ?? 0
    }
    const reason = (id: number) => node.channels.updateBalance(id).catch((error: { code: string }) => error.code)

    test('each kind in its own way; what cannot be known is said, and never taken for nothing', async () => {
      const [openai, deepseek, openrouter] = [await create(1, 'a'), await create(43, 'b'), await create(20, 'c')]
      expect([await reason(openai), await reason(deepseek), await reason(openrouter)]).toEqual([7.5, 110.5, 17.5])
      expect(await node.channels.get(openai)).toMatchObject({ balance: 7.5, balanceUpdatedTime: expect.any(Number) })
      const many = await create(1, 'x\ny', { mode: 'multi_to_single' })
      expect([await reason(await create(14, 'd')), await reason(many)]).toEqual([
        'channel_no_balance',
        'channel_balance_keys',
      ])
      expect([await reason(await create(1, 'broken')), await reason(await create(1, 'silent'))]).toEqual([
        'channel_balance_failed',
        'channel_balance_failed',
      ])
    })
    test('all at once: an account that holds nothing is disabled, one that fails keeps its balance, a disabled one is not asked', async () => {
      const [empty, byHand] = [await create(1, 'empty'), await create(1, 'by-hand')]
      await node.channels.setStatus([byHand], 2, 'manual operation')
      asked.length = 0
      await updateBalancesJob(node.channels, 1).run(new AbortController().signal, NOTHING_TO_FENCE)
      const row = await node.channels.get(empty)
      expect([row.status, row.balance, JSON.parse(row.otherInfo ?? '').status_reason]).toEqual([
        3,
        -0.5,
        'The balance of the account is used up',
      ])
      const { channels } = database.db.tables
      expect(await database.db.$count(channels, eq(channels.status, 3))).toBe(1)
      expect(asked.filter((line) => line.startsWith('by-hand'))).toEqual([])
    })
    test('it stops when it is told to, and never begins without a period', async () => {
      asked.length = 0
      const run = updateBalancesJob(node.channels, 1).run(AbortSignal.abort(new Error('stop')), NOTHING_TO_FENCE)
      expect(await run.then(String, String)).toBe('Error: stop')
      expect([asked, updateBalancesJob(node.channels, 0).everyMs]).toEqual([[], 0])
    })
  })
