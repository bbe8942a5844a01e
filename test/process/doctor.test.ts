/** `doctor` says what is wrong and what to do, shows no secret, and harms no running node. */
import { afterEach, expect, test } from 'bun:test'
import { chmod, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { HAS_SERVERS, SERVER_ENGINE } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import { freePort, redis } from '../support/services.ts'
import { startNode, temporaryFolder } from './started-node.ts'

const SOURCE = [process.execPath, '--no-env-file', join(import.meta.dir, '../../src/main.ts')]
const LONG = 60_000

const cleanUps: (() => Promise<unknown>)[] = []
afterEach(async () => {
  for (let cleanUp = cleanUps.pop(); cleanUp; cleanUp = cleanUps.pop()) await cleanUp()
})

async function folder(): Promise<string> {
  const { path, remove } = await temporaryFolder()
  cleanUps.push(remove)
  return path
}

async function doctor(cwd: string, env: Record<string, string> = {}): Promise<{ code: number; text: string }> {
  const run = startNode([...SOURCE, 'doctor'], { cwd, env })
  const code = await run.process.exited
  await run.end()
  return { code, text: run.lines.map((line) => line['text']).join('\n') }
}

test(
  'beside a running node it says so, and the node keeps its folder and its journal',
  async () => {
    const cwd = await folder()
    const node = startNode(SOURCE, { cwd })
    cleanUps.push(() => node.end())
    const port = await node.port()
    await eventually('it is ready', async () => (await fetch(`http://localhost:${port}/readyz`)).ok, {
      withinMs: 20_000,
    })
    const looked = await doctor(cwd)
    expect(looked.text).toContain(`a node is running on ${cwd}`)
    expect(looked.text).toContain('the schema has all that this version needs')
    expect(looked.code).toBe(0)
    const second = startNode(SOURCE, { cwd })
    cleanUps.push(() => second.end())
    expect(await second.process.exited).toBe(1)
    expect((await fetch(`http://localhost:${port}/readyz`)).ok).toBe(true)
  },
  LONG,
)

test(
  'problems and what to do come together, with exit code 1 and without secrets',
  async () => {
    const cwd = await folder()
    const looked = await doctor(cwd, {
      NODE_TYPE: 'slave',
      LOG_SQL_DSN: 'clickhouse://u:hunter2@h/logs',
      SESSION_SECRETS: 'x',
    })
    expect(looked.code).toBe(1)
    for (const text of [
      'PROBLEM NODE_TYPE: ',
      'PROBLEM LOG_SQL_DSN: ',
      'WARNING SESSION_SECRETS: ',
      '2 problems found.',
    ])
      expect(looked.text).toContain(text)
    expect(looked.text).not.toContain('hunter2')
  },
  LONG,
)

test(
  'a secret that others can read is found',
  async () => {
    const cwd = await folder()
    await writeFile(join(cwd, 'session-secret'), 'x'.repeat(64))
    await chmod(join(cwd, 'session-secret'), 0o644)
    expect((await doctor(cwd)).text).toContain(`chmod 600 ${join(cwd, 'session-secret')}`)
  },
  LONG,
)

test(
  'a database and a Redis that cannot be reached are a problem and a warning',
  async () => {
    const [sql, store] = [await freePort(), await freePort()]
    const looked = await doctor(await folder(), {
      SQL_DSN: `u:hunter2@tcp(127.0.0.1:${sql})/db`,
      REDIS_CONN_STRING: `redis://:hunter2@127.0.0.1:${store}`,
      SESSION_SECRET: 'x'.repeat(32),
    })
    expect(looked.code).toBe(1)
    expect(looked.text).toContain('PROBLEM SQL_DSN: ')
    expect(looked.text).toContain('WARNING REDIS_CONN_STRING: cannot be used')
    expect(looked.text).not.toContain('hunter2')
  },
  LONG,
)

if (HAS_SERVERS && SERVER_ENGINE) {
  const engine = SERVER_ENGINE
  test(
    `servers that are well are described: ${engine.name} and Redis`,
    async () => {
      const database = await engine.freshDb()
      cleanUps.push(() => database.close())
      const { url } = await redis()
      const looked = await doctor(await folder(), {
        SQL_DSN: database.env.SQL_DSN ?? '',
        REDIS_CONN_STRING: url,
        SESSION_SECRET: 'x'.repeat(32),
      })
      expect(looked.text).toMatch(/(ok|WARNING) +SQL_DSN: reachable, version \d+\./)
      expect(looked.text).toContain('SQL_DSN: the schema has all that this version needs')
      expect(looked.text).toContain('REDIS_CONN_STRING: reachable')
      expect(looked.text).toMatch(/this machine is \d+ ms (behind|ahead of) the database/)
      expect(looked.code).toBe(0)
    },
    LONG,
  )
}
