/**
 * One stream of any length takes no memory of its length, forwarded or converted, also where the upstream reports no usage
 * and the gateway has to count; and none of it is lost.
 */
import { expect, test } from 'bun:test'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createAdminClient } from '../support/admin-client.ts'
import { expectAudit } from '../support/auditor.ts'
import { ENGINES } from '../support/engines.ts'
import { createNode } from '../support/node.ts'
import { startUpstreamProcess } from '../support/upstream-process.ts'

const PIECES = process.env['SOAK'] ? 600_000 : 40_000
const PIECE_CHARS = process.env['SOAK'] ? 400 : 2_000
const TEXT_CHARS = PIECES * PIECE_CHARS
const MODEL = 'long'
const PATHS = ['/v1/chat/completions', '/v1/messages'] as const

/** Resident, in MB (10⁶ bytes). @source https://man7.org/linux/man-pages/man5/proc_pid_status.5.html */
const residentMb = async (pid: number): Promise<number> =>
  (Number(/VmRSS:\s+(\d+)/.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024) / 1e6

const textOf = (line: string): string => {
  if (!line.startsWith('data: {')) return ''
  const event = JSON.parse(line.slice('data: '.length)) as {
    readonly choices?: readonly { readonly delta?: { readonly content?: string | null } }[]
    readonly delta?: { readonly text?: string }
  }
  return event.choices?.[0]?.delta?.content ?? event.delta?.text ?? ''
}

test(`a stream of ${TEXT_CHARS / 1e6} million characters goes through in little memory`, async () => {
  const [engine] = ENGINES
  const folder = await mkdtemp(join(tmpdir(), 'headgate-long-'))
  const testDb = await engine!.freshDb({ isEmpty: true })
  const upstream = await startUpstreamProcess(folder)
  const node = await createNode({ env: { ...testDb.env, WORKERS: '1' } })
  try {
    node.start()
    await node.ready()
    const admin = createAdminClient(() => node.url)
    await admin.setUp()
    await admin.options({ ModelRatio: { [MODEL]: 1 }, CompletionRatio: { [MODEL]: 1 } })
    await admin.channel({
      name: 'long',
      baseUrl: upstream.url,
      models: [MODEL],
      modelMapping: { [MODEL]: `long?size=${TEXT_CHARS}&chunks=${PIECES}&usage=none` },
    })
    const { key } = await admin.apiKey(await admin.user(2_000_000_000))
    const [pid = 0] = await node.workerPids()
    for (const path of PATHS) {
      const reply = await fetch(`${node.url}${path}`, {
        method: 'POST',
        headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
        body: JSON.stringify({
          model: MODEL,
          stream: true,
          max_tokens: TEXT_CHARS,
          messages: [{ role: 'user', content: 'tell me everything' }],
        }),
      })
      expect(reply.status).toBe(200)
      let chars = 0
      let rest = ''
      const memory: number[] = []
      const decoder = new TextDecoder()
      for await (const part of reply.body as ReadableStream<Uint8Array>) {
        const lines = (rest + decoder.decode(part, { stream: true })).split('\n')
        rest = lines.pop() ?? ''
        for (const line of lines) chars += textOf(line).length
        // A tenth at a time: by the second everything that a stream needs is there.
        if (chars >= (memory.length * TEXT_CHARS) / 10) memory.push(await residentMb(pid))
      }
      const [, , early = 0] = memory
      const grown = Math.max(...memory.slice(2)) - early
      console.log(
        `${path}: ${PIECES} pieces, ${TEXT_CHARS / 1e6} million characters; worker at each tenth ` +
          `${memory.map(Math.round).join(', ')} MB`,
      )
      expect(chars).toBe(TEXT_CHARS)
      expect(grown).toBeLessThan(TEXT_CHARS / 1e6 / 2)
    }
    expect(await node.stop()).toBe(0)
    const report = await expectAudit(testDb.db, testDb.db, { granted: admin.granted })
    expect(report.logRows).toBe(PATHS.length)
  } catch (error) {
    console.log(await node.output())
    throw error
  } finally {
    await node.remove()
    await upstream.stop()
    await testDb.close()
    await rm(folder, { recursive: true, force: true })
  }
}, 600_000)
