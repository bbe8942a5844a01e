/** Upstream keys in the database: when they are encrypted, that all else works as before, and that changing it loses none. */
import { afterEach, beforeEach, describe, expect, test } from 'bun:test'
import { eq } from 'drizzle-orm'
import type { Db } from '../../../src/db/index.ts'
import {
  beginKeysAtRest,
  type CreateInput,
  discardUnreadable,
  lockedKeys,
  reportKeys,
  rewriteKeys,
} from '../../../src/domain/channels/index.ts'
import { GatewayError } from '../../../src/errors.ts'
import { silentLog } from '../../../src/lib/log.ts'
import { createKeyring, isSealed, type Keyring, sealedWith } from '../../../src/lib/sealed-text.ts'
import { ENGINES, type TestDb } from '../../support/engines.ts'
import { eventually } from '../../support/eventually.ts'
import { type Node, servedBy, startNode } from './harness.ts'

const OLD = { id: 'old1', key: Buffer.alloc(32, 1) }
const NEW = { id: 'new1', key: Buffer.alloc(32, 2) }
const oldRing = createKeyring([OLD], 'channels.key')
const bothRing = createKeyring([NEW, OLD], 'channels.key')
const newRing = createKeyring([NEW], 'channels.key')

const codeOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'no error',
    (error: unknown) => (error instanceof GatewayError ? error.code : String(error)),
  )

for (const engine of ENGINES) {
  describe(`keys at rest on ${engine.name}`, () => {
    let testDb: TestDb
    const nodes: Node[] = []
    beforeEach(async () => {
      testDb = await engine.freshDb()
    })
    afterEach(async () => {
      for (const node of nodes.splice(0)) await node.stop()
      await testDb.close()
    })

    const start = async (keyring: Keyring): Promise<Node> => {
      const node = await startNode(testDb.db, silentLog, keyring)
      nodes.push(node)
      return node
    }
    const stored = async (id: number): Promise<string> => {
      const { channels } = testDb.db.tables
      const [row] = await testDb.db.select({ key: channels.key }).from(channels).where(eq(channels.id, id))
      return row?.key ?? ''
    }
    const create = (node: Node, key: string, more: Partial<CreateInput> = {}): Promise<readonly number[]> =>
      node.channels.create({ mode: 'single', ...more, channel: { type: 1, name: 'c', models: 'm', key } })
    const createOne = async (node: Node, key: string): Promise<number> => (await create(node, key))[0] ?? 0
    const search = async (node: Node, keyword: string): Promise<readonly number[]> => {
      const sort = { by: 'id', isDescending: false } as const
      const { rows } = await node.channels.list({ keyword, sort, isByTag: false, offset: 0, limit: 10 })
      return rows.map(({ id }) => id)
    }
    const keyOf = (node: Node, id: number): string | undefined => {
      const channel = node.channels.find(id)
      return channel && node.channels.takeKey(channel)?.key
    }

    test('a database nobody has used is encrypted from the start; one that was used is not, whatever is set', async () => {
      await beginKeysAtRest(testDb.db, oldRing, true)
      const node = await start(oldRing)
      expect(isSealed(await stored(await createOne(node, 'sk-1')))).toBe(true)

      const { clusterMeta } = testDb.db.tables
      await testDb.db.delete(clusterMeta).where(eq(clusterMeta.key, 'keys_at_rest'))
      await beginKeysAtRest(testDb.db, oldRing, true)
      expect(await stored(await createOne(node, 'sk-2'))).toBe('sk-2')
      // What was encrypted before stays readable beside it.
      expect((await reportKeys(testDb.db, oldRing)).unreadable).toEqual([])
    })

    test('it is not encrypted where that is not wanted, or without a secret', async () => {
      await beginKeysAtRest(testDb.db, oldRing, false)
      expect(await stored(await createOne(await start(oldRing), 'sk-1'))).toBe('sk-1')
    })

    test('every verb works on encrypted keys, and none leaves one plain', async () => {
      await beginKeysAtRest(testDb.db, oldRing, true)
      const node = await start(oldRing)
      const one = await createOne(node, 'sk-one')
      const [two, three] = await create(node, 'sk-two\nsk-three', { mode: 'batch' })
      const [multi = 0] = await create(node, 'sk-a\nsk-b\nsk-c', { mode: 'multi_to_single' })
      const copy = await node.channels.copy(one, { suffix: ' 2', isBalanceReset: true })
      expect([one, two ?? 0, three ?? 0, copy].map((id) => keyOf(node, id))).toEqual([
        'sk-one',
        'sk-two',
        'sk-three',
        'sk-one',
      ])
      expect(await search(node, 'sk-one')).toEqual([one, copy])
      expect(await search(node, 'sk-b')).toEqual([multi])
      expect(await node.channels.keyText(multi)).toBe('sk-a\nsk-b\nsk-c')

      const before = await stored(one)
      const rename = { id: one, name: 'renamed', key: 'sk-one' }
      const renamed = await node.channels.update(rename, Object.keys(rename), { isSensitiveAllowed: true })
      expect(renamed.changed).toEqual(['name'])
      expect(await stored(one)).toBe(before)
      const change = { id: one, key: 'sk-changed' }
      await node.channels.update(change, Object.keys(change), { isSensitiveAllowed: true })
      expect(keyOf(node, one)).toBe('sk-changed')
      const append = { id: multi, key: 'sk-d', key_mode: 'append' }
      await node.channels.update(append, Object.keys(append), { isSensitiveAllowed: true })
      await node.channels.manageKeys(multi, { kind: 'delete', index: 0 })
      expect((await node.channels.keys(multi)).keys.map(({ key }) => key)).toEqual(['sk-b', 'sk-c', 'sk-d'])

      await node.options.set({ AutomaticDisableChannelEnabled: 'true' })
      const error = new GatewayError('channel:no_available_key')
      node.channels.report({ channelId: multi, keyIndex: 1, error })
      await node.channels.idle()
      expect((await node.channels.keys(multi)).keys.map(({ status }) => status)).toEqual([1, 3, 1])

      const rows = await testDb.db.select().from(testDb.db.tables.channels)
      expect(rows.length).toBe(5)
      for (const row of rows) {
        expect(sealedWith(row.key)).toBe('old1')
        expect(JSON.stringify(row)).not.toMatch(/sk-\w/)
      }
    })

    test('a node without the secret leaves the channel out with the reason, and cannot show, use or spoil its key', async () => {
      await beginKeysAtRest(testDb.db, oldRing, true)
      const id = await createOne(await start(oldRing), 'sk-one')
      const [multi = 0] = await create(nodes[0]!, 'sk-a\nsk-b', { mode: 'multi_to_single' })
      const blind = await start(newRing)
      expect(await lockedKeys(testDb.db, newRing)).toStartWith('CRYPTO_SECRET:')
      expect(servedBy(blind, 'm')).toEqual([])
      const reasons = blind.channels.candidates({ model: 'm', group: 'default' }).leftOut
      expect(JSON.stringify(reasons)).toContain('CRYPTO_SECRET')
      expect(await codeOf(blind.channels.keyText(id))).toBe('channel_key_locked')
      expect(await codeOf(blind.channels.keys(multi))).toBe('channel_key_locked')
      expect(await codeOf(blind.channels.manageKeys(multi, { kind: 'delete', index: 0 }))).toBe('channel_key_locked')
      expect(await codeOf(createOne(blind, 'sk-new'))).toBe('channel_key_locked')
      expect(await codeOf(blind.channels.copy(id, { suffix: 'x', isBalanceReset: true }))).toBe('channel_key_locked')
      expect(await search(blind, 'sk-one')).toEqual([])
      const rename = { id, name: 'renamed' }
      await blind.channels.update(rename, Object.keys(rename), { isSensitiveAllowed: true })
      expect(await nodes[0]!.channels.keyText(id)).toBe('sk-one')
    })

    test('encrypting, rotating and decrypting lose no key, may be repeated, and nodes read both forms meanwhile', async () => {
      await beginKeysAtRest(testDb.db, oldRing, false)
      const node = await start(bothRing)
      const keys = new Map<number, string>()
      for (let n = 0; n < 5; n++) keys.set(await createOne(node, `sk-${n}`), `sk-${n}`)
      const expectAll = async (form: (text: string) => string | undefined, expected: string | undefined) => {
        for (const [id, key] of keys) {
          expect(form(await stored(id))).toBe(expected as string)
          expect(await node.channels.keyText(id)).toBe(key)
          expect(keyOf(node, id)).toBe(key)
        }
      }
      expect(await rewriteKeys(testDb.db, oldRing, 'encrypted')).toEqual({ changed: 5, unreadable: [] })
      expect(await rewriteKeys(testDb.db, oldRing, 'encrypted')).toEqual({ changed: 0, unreadable: [] })
      await expectAll(sealedWith, 'old1')
      expect(await rewriteKeys(testDb.db, bothRing, 'encrypted')).toEqual({ changed: 5, unreadable: [] })
      await expectAll(sealedWith, 'new1')
      expect(await lockedKeys(testDb.db, newRing)).toBeUndefined()
      keys.set(await createOne(node, 'sk-late'), 'sk-late')
      await expectAll(sealedWith, 'new1')
      expect(await rewriteKeys(testDb.db, newRing, 'plain')).toEqual({ changed: 6, unreadable: [] })
      await expectAll(sealedWith, undefined)
      expect(await lockedKeys(testDb.db, createKeyring([], ''))).toBeUndefined()
    })

    test('a rotation that was interrupted keeps asking for the old secret, and is finished by running it again', async () => {
      await beginKeysAtRest(testDb.db, oldRing, true)
      const node = await start(bothRing)
      const ids: number[] = []
      for (let n = 0; n < 4; n++) ids.push(await createOne(node, `sk-${n}`))
      let writes = 0
      const broken = {
        ...bothRing,
        seal: (text: string, id: string) => {
          if (++writes > 2) throw new Error('the power went')
          return bothRing.seal(text, id)
        },
      }
      expect(await codeOf(rewriteKeys(testDb.db, broken, 'encrypted'))).toContain('the power went')
      expect(await lockedKeys(testDb.db, newRing)).toStartWith('CRYPTO_SECRET:')
      expect(await lockedKeys(testDb.db, bothRing)).toBeUndefined()
      expect([...(await reportKeys(testDb.db, bothRing)).sealed].sort()).toEqual([
        ['new1', 2],
        ['old1', 2],
      ])
      expect(await Promise.all(ids.map((id) => node.channels.keyText(id)))).toEqual(['sk-0', 'sk-1', 'sk-2', 'sk-3'])
      expect(await rewriteKeys(testDb.db, bothRing, 'encrypted')).toEqual({ changed: 2, unreadable: [] })
      expect(await lockedKeys(testDb.db, newRing)).toBeUndefined()
    })

    test('keys written while a rotation runs are in the new form, and every one of them is right', async () => {
      await beginKeysAtRest(testDb.db, oldRing, true)
      const writers = [await start(bothRing), await start(bothRing)]
      const keys = new Map<number, string>()
      for (let n = 0; n < 10; n++) keys.set(await createOne(writers[0]!, `sk-first-${n}`), `sk-first-${n}`)
      const first = [...keys.keys()]
      let isDone = false
      const writing = writers.map(async (node, writer) => {
        for (let n = 0; !isDone; n++) {
          const key = `sk-${writer}-${n}`
          keys.set(await createOne(node, key), key)
          const id = first[(n * 2 + writer) % first.length]!
          const change = { id, key: `${key}-changed` }
          await node.channels.update(change, ['id', 'key'], { isSensitiveAllowed: true })
          keys.set(id, change.key)
        }
      })
      try {
        await rewriteKeys(testDb.db, bothRing, 'encrypted')
        await rewriteKeys(testDb.db, bothRing, 'plain')
        await rewriteKeys(testDb.db, bothRing, 'encrypted')
      } finally {
        isDone = true
        await Promise.all(writing)
      }
      const rows = await testDb.db.select().from(testDb.db.tables.channels)
      for (const row of rows) {
        expect(sealedWith(row.key)).toBe('new1')
        expect(newRing.open(row.key)).toBe(keys.get(row.id)!)
      }
      expect(await lockedKeys(testDb.db, newRing)).toBeUndefined()
      await eventually('the other node routes by all of them', () => servedBy(writers[1]!, 'm').length === rows.length)
    }, 60_000)

    test('a secret that is lost: its keys can be given up, and the rest goes on under the new one', async () => {
      await beginKeysAtRest(testDb.db, oldRing, true)
      const lost = await createOne(await start(oldRing), 'sk-lost')
      await rewriteKeys(testDb.db, bothRing, 'plain')
      await nodes[0]!.channels.update({ id: lost, name: 'lost' }, ['id', 'name'], { isSensitiveAllowed: true })
      const kept = await createOne(nodes[0]!, 'sk-kept')
      await rewriteOne(testDb.db, lost, oldRing.seal('sk-lost', 'old1'))
      expect(await discardUnreadable(testDb.db, newRing, 1)).toEqual([lost])
      expect(await stored(lost)).toBe('')
      const node = await start(newRing)
      expect(servedBy(node, 'm')).toEqual([kept])
      expect(node.channels.find(lost)?.status).toBe(2)
      expect(await lockedKeys(testDb.db, newRing)).toBeUndefined()
    })
  })
}

const rewriteOne = async (db: Db, id: number, key: string): Promise<void> => {
  const { channels } = db.tables
  await db.update(channels).set({ key }).where(eq(channels.id, id))
}
