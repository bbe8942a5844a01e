/**
 * Channels that fail are left alone for a while by all nodes, and tried out by one call at a time, on every engine; two
 * nodes share a bus, or nothing but the database.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { eq } from 'drizzle-orm'
import type { CreateInput } from '../../../src/domain/channels/index.ts'
import { GatewayError } from '../../../src/errors.ts'
import { systemClock } from '../../../src/lib/clock.ts'
import { silentLog } from '../../../src/lib/log.ts'
import { EMPTY_RING } from '../../../src/lib/sealed-text.ts'
import { createMemoryState, type State } from '../../../src/state/index.ts'
import { ENGINES, type TestDb } from '../../support/engines.ts'
import { eventually } from '../../support/eventually.ts'
import { type Node, servedBy, startNode } from './harness.ts'

const failing = (status = 500, retryAfterSec?: number) =>
  new GatewayError('bad_response_status_code', {
    status,
    upstream: { status, message: 'no' },
    ...(retryAfterSec !== undefined && { retryAfterSec }),
  })
const SHORT = { 'channel_health_setting.cool_down_seconds': '0.2', 'channel_health_setting.failure_count': '5' }
const LONG = {
  'channel_health_setting.cool_down_seconds': '100',
  'channel_health_setting.max_cool_down_seconds': '300',
}

let unique = 0

for (const engine of ENGINES)
  for (const isShared of [true, false])
    describe(`${engine.name}, ${isShared ? 'one bus' : 'no bus'}`, () => {
      const alerts: string[] = []
      let database: TestDb
      let bus: State | undefined
      let nodes: [Node, Node]
      let model: string
      beforeAll(async () => {
        database = await engine.freshDb()
        bus = isShared ? createMemoryState({ clock: systemClock, log: silentLog }) : undefined
        const start = () =>
          startNode(database.db, silentLog, EMPTY_RING, {
            ...(bus && { state: bus }),
            alert: ({ key }) => void alerts.push(key),
          })
        nodes = [await start(), await start()]
      }, 120_000)
      afterAll(async () => {
        for (const node of nodes) await node.stop()
        await database.close()
      }, 60_000)
      beforeEach(async () => {
        model = `model-${++unique}`
        alerts.length = 0
        await set({ ...LONG, 'channel_health_setting.failure_count': '5', 'channel_health_setting.enabled': 'true' })
      })

      /** In force on both nodes. */
      const set = async (entries: Readonly<Record<string, string>>): Promise<void> => {
        await nodes[0].options.set(entries)
        await eventually('both nodes have the options', () =>
          Object.entries(entries).every(([key, value]) =>
            nodes.every(({ options }) => options.state().texts.get(key) === value),
          ),
        )
      }
      /** Known to both nodes. */
      const create = async (channel: CreateInput['channel'] = {}): Promise<number> => {
        const input = { mode: 'single', channel: { type: 1, key: 'sk-1', name: 'c', models: model, ...channel } }
        const id = (await nodes[0].channels.create(input))[0] ?? 0
        await eventually('the other node has the channel', () => nodes[1].channels.find(id))
        return id
      }
      const report = ({ channels }: Node, channelId: number, error?: GatewayError, times = 1, keyIndex = 0): void => {
        for (let n = 0; n < times; n++)
          channels.report({ channelId, keyIndex, error, startedAtMs: systemClock.monotonic() })
      }
      const idle = async (): Promise<void> => {
        for (const { channels } of nodes) await channels.idle()
      }
      const isLeftAlone = ({ channels }: Node, id: number): boolean =>
        channels
          .candidates({ model, group: 'default' })
          .leftOut.some(({ channelId, reason }) => channelId === id && reason === 'cooling down')
      const bothLeaveAlone = (id: number) =>
        eventually('both nodes leave the channel alone', () => nodes.every((node) => isLeftAlone(node, id)))
      const bothServe = (id: number) =>
        eventually('both nodes serve by the channel', () => nodes.every((node) => !isLeftAlone(node, id)))
      /** As a call does it: draws a channel that was not tried. */
      const draw = ({ channels }: Node): number | undefined =>
        channels.candidates({ model, group: 'default' }).next(0, new Set())?.id
      /** Draws until the wanted one comes up; with it the attempt starts. */
      const drawn = (node: Node, id: number, draws = 40): boolean => {
        for (let n = 0; n < draws; n++) {
          if (draw(node) !== id) continue
          const channel = node.channels.find(id)
          if (channel) node.channels.takeKey(channel)
          return true
        }
        return false
      }
      const rowOf = async (subject: string) => {
        const { channelBreakers } = database.db.tables
        return (await database.db.select().from(channelBreakers).where(eq(channelBreakers.subject, subject)))[0]
      }

      test('a channel that fails is left alone by both nodes, with the reason, and told of once', async () => {
        const [bad, good] = [await create(), await create()]
        report(nodes[0], bad, failing(), 5)
        expect([servedBy(nodes[0], model), isLeftAlone(nodes[0], bad)]).toEqual([[good], true])
        report(nodes[1], bad, failing(), 5)
        await idle()
        await bothLeaveAlone(bad)
        expect(alerts).toEqual([`channel:${bad}:cooling`])
        expect((await nodes[0].channels.get(bad)).status).toBe(1)
      })
      test('a third of failures is no reason, nor are few of them, nor what calls did wrong', async () => {
        const [mixed, few, wrong] = [await create(), await create(), await create()]
        report(nodes[0], mixed, undefined, 40)
        report(nodes[0], mixed, failing(), 20)
        report(nodes[0], few, failing(), 4)
        report(nodes[0], wrong, failing(400), 50)
        report(nodes[0], wrong, new GatewayError('client_closed_request'), 50)
        await idle()
        expect(servedBy(nodes[0], model)).toEqual([mixed, few, wrong])
      })
      test('half of them is, once there are enough to say so', async () => {
        const [bad, good] = [await create(), await create()]
        report(nodes[0], bad, undefined, 15)
        report(nodes[0], bad, failing(), 14)
        expect(isLeftAlone(nodes[0], bad)).toBe(false)
        report(nodes[0], bad, failing())
        expect(servedBy(nodes[0], model)).toEqual([good])
        await idle()
      })
      test('the switch turns it off, also while a channel is left alone; and a channel that may not be banned is exempt', async () => {
        const [bad, exempt, other] = [await create(), await create({ auto_ban: 0 }), await create()]
        report(nodes[0], bad, failing(), 5)
        report(nodes[0], exempt, failing(), 50)
        await idle()
        expect(servedBy(nodes[0], model)).toEqual([exempt, other])
        await set({ 'channel_health_setting.enabled': 'false' })
        expect(servedBy(nodes[0], model)).toEqual([bad, exempt, other])
      })
      test('if all fail, the one that is over soonest is tried rather than nobody', async () => {
        const [first, second] = [await create(), await create()]
        await set({ 'channel_health_setting.cool_down_seconds': '50' })
        report(nodes[0], second, failing(), 5)
        await set({ 'channel_health_setting.cool_down_seconds': '100' })
        report(nodes[0], first, failing(), 5)
        await idle()
        expect(Array.from({ length: 20 }, () => draw(nodes[0]))).toEqual(Array.from({ length: 20 }, () => second))
        const { leftOut } = nodes[0].channels.candidates({ model, group: 'default' })
        expect(leftOut.map(({ channelId }) => channelId).sort((a, b) => a - b)).toEqual([first, second])
      })
      test('an upstream that asks to be left alone is, at its first word and for as long, but not for ever', async () => {
        const [bad, good] = [await create(), await create()]
        report(nodes[0], bad, failing(429, 40))
        await idle()
        await bothLeaveAlone(bad)
        const row = await rowOf(`${bad}`)
        expect([servedBy(nodes[1], model), (row?.untilMs ?? 0) - (row?.changedAtMs ?? 0)]).toEqual([[good], 40_000])
        report(nodes[0], good, failing(429, 86_400))
        await idle()
        const longest = await rowOf(`${good}`)
        expect((longest?.untilMs ?? 0) - (longest?.changedAtMs ?? 0)).toBe(300_000)
        expect(alerts).toEqual([])
      })
      test('after its time one call at a time over both nodes tries it; it serves again after a good one', async () => {
        const [bad] = [await create(), await create()]
        await set(SHORT)
        report(nodes[0], bad, failing(), 5)
        await idle()
        await bothLeaveAlone(bad)
        const holder = await eventually('one node tries the channel', () => nodes.find((node) => drawn(node, bad, 1)))
        // The others have every chance to go there as well, and the database is asked again.
        for (let round = 0; round < 8; round++) {
          expect(nodes.some((node) => drawn(node, bad))).toBe(false)
          await idle()
          await Bun.sleep(40)
        }
        report(holder, bad)
        await idle()
        await bothServe(bad)
        expect(nodes.map((node) => servedBy(node, model).includes(bad))).toEqual([true, true])
      })
      test('a failing probe leaves it alone for twice as long, up to the most; what began before says nothing', async () => {
        const [bad] = [await create(), await create()]
        await set({ ...SHORT, 'channel_health_setting.max_cool_down_seconds': '0.5' })
        const lengths: number[] = []
        const beganBefore = systemClock.monotonic()
        report(nodes[0], bad, failing(), 5)
        await idle()
        for (let turn = 0; turn < 3; turn++) {
          const row = await rowOf(`${bad}`)
          lengths.push((row?.untilMs ?? 0) - (row?.changedAtMs ?? 0))
          await bothLeaveAlone(bad)
          const node = await eventually('one node tries the channel', () => nodes.find((one) => drawn(one, bad, 1)))
          // Stragglers of the time before neither close it nor prolong it.
          node.channels.report({ channelId: bad, keyIndex: 0, startedAtMs: beganBefore })
          node.channels.report({ channelId: bad, keyIndex: 0, startedAtMs: beganBefore, error: failing() })
          expect(isLeftAlone(node, bad)).toBe(true)
          report(node, bad, failing())
          await idle()
        }
        expect(lengths).toEqual([200, 400, 500])
        expect(alerts).toEqual([`channel:${bad}:cooling`])
      })
      test('a probe without a verdict is followed by another; one whose node died as well', async () => {
        const [bad] = [await create(), await create()]
        await set(SHORT)
        report(nodes[0], bad, failing(), 5)
        await idle()
        await bothLeaveAlone(bad)
        const node = await eventually('one node tries the channel', () => nodes.find((one) => drawn(one, bad, 1)))
        report(node, bad, new GatewayError('client_closed_request'))
        expect(drawn(node, bad)).toBe(true)
        const { channelBreakers } = database.db.tables
        await database.db
          .update(channelBreakers)
          .set({ probeBy: 'a dead one', probeUntilMs: await database.db.now() })
          .where(eq(channelBreakers.subject, `${bad}`))
        const other = nodes.find((one) => one !== node) as Node
        await eventually('the other node tries the channel', () => drawn(other, bad, 1))
        report(other, bad)
        await idle()
        await bothServe(bad)
      })
      test('enabling it by hand lets it serve at once; a disable by hand stays', async () => {
        const [bad] = [await create(), await create()]
        report(nodes[0], bad, failing(), 5)
        await idle()
        await bothLeaveAlone(bad)
        await nodes[1].channels.setStatus([bad], 1, 'manual operation')
        await bothServe(bad)
        await nodes[1].channels.setStatus([bad], 2, 'manual operation')
        report(nodes[0], bad, failing(), 9)
        report(nodes[0], bad, undefined, 9)
        await idle()
        expect((await nodes[0].channels.get(bad)).status).toBe(2)
        expect(servedBy(nodes[1], model)).not.toContain(bad)
      })
      test('of several keys only the failing one is left alone, and the rest take fair turns', async () => {
        const [many] = await nodes[0].channels.create({
          mode: 'multi_to_single',
          multiKeyMode: 'polling',
          channel: { type: 1, key: 'a\nb\nc', name: 'c', models: model },
        })
        const channel = nodes[0].channels.find(many ?? 0)!
        report(nodes[0], channel.id, undefined, 3, 0)
        report(nodes[0], channel.id, failing(), 5, 1)
        await idle()
        expect(isLeftAlone(nodes[0], channel.id)).toBe(false)
        const taken = Array.from({ length: 60 }, () => nodes[0].channels.takeKey(channel)?.index)
        expect([0, 1, 2].map((index) => taken.filter((one) => one === index).length)).toEqual([30, 0, 30])
        for (const index of [0, 2]) report(nodes[0], channel.id, failing(429, 60), 1, index)
        await idle()
        await bothLeaveAlone(channel.id)
        // Nothing else serves the model: the key that is over soonest does.
        expect([draw(nodes[0]), nodes[0].channels.takeKey(channel)?.index]).toEqual([channel.id, 0])
      })
      if (isShared)
        test('failures that each node saw a part of are counted together', async () => {
          const bad = await create()
          report(nodes[0], bad, failing(), 3)
          report(nodes[1], bad, failing(), 3)
          await bothLeaveAlone(bad)
          await idle()
          expect(alerts).toEqual([`channel:${bad}:cooling`])
          const fine = await create()
          report(nodes[0], fine, undefined, 20)
          report(nodes[1], fine, failing(), 3)
          // Long enough for the first failures to be told, and for the good ones to be told in answer.
          await Bun.sleep(600)
          report(nodes[1], fine, failing(), 3)
          await idle()
          expect(nodes.map((node) => isLeftAlone(node, fine))).toEqual([false, false])
        })
    })
