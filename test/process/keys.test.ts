/** `headgate keys` beside a running node: what it changes, what it refuses, and that a database of New API is as it was in the end. */
import { afterEach, describe, expect, test } from 'bun:test'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openDb } from '../../src/db/index.ts'
import { silentLog } from '../../src/lib/log.ts'
import { isSealed } from '../../src/lib/sealed-text.ts'
import { fillNewApi, type Photograph, photograph } from '../db/taken-over.ts'
import { createAdminClient } from '../support/admin-client.ts'
import { eventually } from '../support/eventually.ts'
import { createNode, type RealNode } from '../support/node.ts'
import { startUpstream, type Upstream } from '../support/upstream.ts'

const CRYPTO = { CRYPTO_SECRET: 'a crypto secret of tests, long enough' }
const KEYS = 'sk-first-0123456789\nsk-second-0123456789'
const EXIT_CONFIG = 78
const EXIT_USAGE = 64
const LONG = 60_000

const cleanUps: (() => Promise<unknown>)[] = []
afterEach(async () => {
  for (let cleanUp = cleanUps.pop(); cleanUp; cleanUp = cleanUps.pop()) await cleanUp()
})

/** A node on a SQLite file that may be there already, not started. */
const prepare = async (env: Readonly<Record<string, string>>) => {
  const folder = await mkdtemp(join(tmpdir(), 'headgate-keys-'))
  cleanUps.push(() => rm(folder, { recursive: true, force: true }))
  const sqlitePath = join(folder, 'one-api.db')
  const all = { SQLITE_PATH: sqlitePath, ...env }
  const node: RealNode = await createNode({ env: all })
  cleanUps.push(() => node.remove())
  const keys = async (
    words: readonly string[],
    more: Readonly<Record<string, string>> = {},
  ): Promise<{ code: number; text: string }> => {
    const main = join(import.meta.dir, '../../src/main.ts')
    const child = Bun.spawn([process.execPath, '--no-env-file', main, 'keys', ...words], {
      cwd: folder,
      env: { PATH: process.env['PATH'] ?? '', ...all, ...more },
      stdin: 'ignore',
      stdout: 'pipe',
      stderr: 'pipe',
    })
    const texts = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()])
    return { code: await child.exited, text: texts.join('') }
  }
  const open = async () => {
    const db = await openDb({ sqlitePath, log: silentLog })
    cleanUps.push(() => db.close())
    return db
  }
  return { folder, node, keys, open }
}

const keysOf = (found: Photograph): readonly string[] => (found.get('channels') ?? []).map((row) => row['key'] ?? '')

describe('headgate keys', () => {
  test(
    'a database of New API stays plain until it is asked for, and is byte for byte as it was after the way back',
    async () => {
      const { node, keys, open } = await prepare(CRYPTO)
      const db = await open()
      await fillNewApi(db, 'today', '中文 😀')
      const before = await photograph(db)
      expect(keysOf(before).length).toBeGreaterThan(1)
      node.start()
      await node.ready()
      const plain = keysOf(await photograph(db, before))
      expect(plain).toEqual(keysOf(before))

      expect((await keys(['encrypt'])).code).toBe(0)
      const rows = await db.select().from(db.tables.channels)
      for (const row of rows) expect(row.key === '' || isSealed(row.key)).toBe(true)
      expect(await keys(['status'])).toMatchObject({ code: 0, text: expect.stringContaining('with a plain key: 0') })
      expect((await keys(['decrypt'])).code).toBe(0)
      expect((await photograph(db, before)).get('channels')).toEqual(before.get('channels') ?? [])
    },
    LONG,
  )

  test(
    'calls go on with the same keys while they are encrypted and decrypted, and one that was read is still shown to root',
    async () => {
      const { node, keys, open } = await prepare({ ...CRYPTO, ENCRYPT_KEYS_AT_REST: 'false' })
      const upstream: Upstream = startUpstream()
      cleanUps.push(() => upstream.stop())
      node.start()
      await node.ready()
      const admin = createAdminClient(() => node.url)
      await admin.setUp()
      const user = await admin.user(100_000_000)
      const { key } = await admin.apiKey(user)
      await admin.options({ ModelPrice: { m: 0.0001 } })
      await admin.call('POST', '/api/channel/', {
        mode: 'multi_to_single',
        multi_key_mode: 'polling',
        channel: { name: 'c', type: 1, key: KEYS, base_url: upstream.url, models: 'm', group: 'default' },
      })
      const statuses: number[] = []
      let isDone = false
      const calling = (async () => {
        while (!isDone) {
          const reply = await fetch(`${node.url}/v1/chat/completions`, {
            method: 'POST',
            headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
            body: JSON.stringify({ model: 'm', messages: [{ role: 'user', content: 'hi' }] }),
          })
          await reply.arrayBuffer()
          statuses.push(reply.status)
        }
      })()
      const db = await open()
      const stored = async (): Promise<string> => (await db.select().from(db.tables.channels))[0]?.key ?? ''
      const fresh = async (count: number): Promise<void> => {
        const begun = statuses.length
        await eventually('calls are made', () => statuses.length >= begun + count, { withinMs: 20_000 })
      }
      try {
        expect(await stored()).toBe(KEYS)
        expect(await keys(['encrypt'])).toEqual({ code: 0, text: 'channels encrypted: 1\n' })
        expect(isSealed(await stored())).toBe(true)
        await fresh(20)
        expect(await admin.call('POST', '/api/channel/1/key', { password: 'correct horse battery' })).toEqual({
          key: KEYS,
        })
        expect(await keys(['encrypt'])).toEqual({ code: 0, text: 'channels encrypted: 0\n' })
        expect(await keys(['decrypt'])).toEqual({ code: 0, text: 'channels decrypted: 1\n' })
        expect(await stored()).toBe(KEYS)
        await fresh(20)
      } finally {
        isDone = true
        await calling
      }
      expect(statuses.filter((status) => status !== 200)).toEqual([])
      const used = new Set(upstream.requests.map(({ headers }) => headers['authorization']))
      expect([...used].sort()).toEqual(KEYS.split('\n').map((each) => `Bearer ${each}`))
      // Without the secret nothing may be encrypted, and a word that means nothing changes nothing.
      const without = await keys(['encrypt'], { CRYPTO_SECRET: '' })
      expect(without.code).toBe(EXIT_CONFIG)
      expect(without.text).toContain('CRYPTO_SECRET is not set')
      expect((await keys(['rotate'])).code).toBe(EXIT_CONFIG)
      expect((await keys(['discard'])).code).toBe(1)
      expect((await keys(['encode'])).code).toBe(EXIT_USAGE)
      expect(await stored()).toBe(KEYS)
    },
    LONG,
  )

  test(
    'a secret that is lost keeps the node from starting, until the keys are given up',
    async () => {
      const { node, keys } = await prepare(CRYPTO)
      node.start()
      await node.ready()
      const admin = createAdminClient(() => node.url)
      await admin.setUp()
      await admin.channel({ name: 'c', baseUrl: 'http://127.0.0.1:9', models: ['m'] })
      expect(await node.stop()).toBe(0)
      const other = { CRYPTO_SECRET: 'another secret, since the first is lost' }
      node.start(other)
      expect(await node.ended()).toBe(EXIT_CONFIG)
      expect(await node.output()).toContain('CRYPTO_SECRET: upstream keys in the database are encrypted')
      expect((await keys(['status'], other)).text).toContain('cannot be read here: 1')
      expect(await keys(['discard'], other)).toMatchObject({
        code: 0,
        text: expect.stringContaining('disabled: 1'),
      })
      node.start(other)
      await node.ready()
    },
    LONG,
  )
})

test('before any node has used the database there is nothing to do, and no file is made', async () => {
  const { folder, keys } = await prepare(CRYPTO)
  expect(await keys(['status'])).toMatchObject({ code: 1, text: expect.stringContaining('start one first') })
  expect(await readdir(folder)).toEqual([])
})
