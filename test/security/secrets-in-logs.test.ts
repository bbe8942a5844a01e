/** Secrets in logs: planted words that are secret must not turn up wherever the gateway writes, even at level debug. */
import { expect, test } from 'bun:test'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createAdminClient } from '../support/admin-client.ts'
import { eventually } from '../support/eventually.ts'
import { createNode } from '../support/node.ts'
import { startUpstream } from '../support/upstream.ts'

const CANARY = {
  upstreamKey: 'sk-canary-upstream-0123456789',
  header: 'canary-header-0123456789',
  prompt: 'canary prompt that nobody else may read',
  sessionSecret: 'canary-session-secret-0123456789-0123456789',
} as const

test('keys, passwords, secrets and prompts are in no log line, log file, log row or reply', async () => {
  const logDir = await mkdtemp(join(tmpdir(), 'headgate-canary-'))
  const printed = join(logDir, 'printed')
  const upstream = startUpstream()
  const node = await createNode({
    env: { LOG_LEVEL: 'debug', LOG_DIR: logDir, SESSION_SECRET: CANARY.sessionSecret },
  })
  try {
    node.start()
    await node.ready()
    const admin = createAdminClient(() => node.url)
    await admin.setUp()
    const user = await admin.user(1_000_000)
    const key = await admin.apiKey(user)
    await admin.options({ ModelRatio: { m: 1, broken: 1 } })
    for (const model of ['m', 'broken'])
      await admin.channel({
        name: model,
        baseUrl: upstream.url,
        models: [model],
        key: CANARY.upstreamKey,
        fields: { header_override: JSON.stringify({ 'X-Canary': CANARY.header }) },
      })
    // An upstream that repeats what it was sent in its error.
    upstream.on('broken', {
      status: 401,
      error: { message: `Incorrect API key provided: ${CANARY.upstreamKey}. See https://upstream.example/keys` },
    })
    const replies: string[] = []
    const call = async (path: string, body: unknown, authorization = `Bearer ${key.key}`) => {
      const reply = await fetch(`${node.url}${path}`, {
        method: 'POST',
        headers: { authorization, 'content-type': 'application/json' },
        body: typeof body === 'string' ? body : JSON.stringify(body),
      })
      replies.push(JSON.stringify([...reply.headers]), await reply.text())
    }
    const ask = { messages: [{ role: 'user', content: CANARY.prompt }], max_tokens: 20 }
    for (const path of ['/v1/chat/completions', '/v1/messages']) {
      await call(path, { model: 'm', ...ask })
      await call(path, { model: 'm', stream: true, ...ask })
      await call(path, { model: 'broken', ...ask })
      await call(path, { model: 'absent', ...ask })
      await call(path, { model: 'm', ...ask }, `Bearer ${key.key}x`)
      await call(path, `{"model":"m","messages":"${CANARY.prompt}`)
    }
    await call('/api/user/login', { username: user.username, password: `${user.password}!` })
    const rows = await eventually('all calls are logged', async () => {
      const found = await admin.logs('page_size=100')
      return found.filter((row) => row.token_id === key.id).length >= 10 && found
    })
    expect(await node.stop()).toBe(0)

    const files = await Promise.all((await readdir(logDir)).map((name) => readFile(join(logDir, name), 'utf8')))
    await Bun.write(printed, await node.output())
    const sinks = {
      replies: replies.join('\n'),
      rows: JSON.stringify(rows),
      files: files.join('\n'),
      output: await readFile(printed, 'utf8'),
    }
    expect(sinks.files).toContain('"msg":"call"')
    const secrets = { ...CANARY, apiKey: key.key.replace(/^sk-/, ''), password: user.password }
    for (const [sink, text] of Object.entries(sinks))
      for (const [name, secret] of Object.entries(secrets))
        expect([sink, name, text.includes(secret)]).toEqual([sink, name, false])
  } finally {
    await node.remove()
    await upstream.stop()
    await rm(logDir, { recursive: true, force: true })
  }
}, 60_000)
