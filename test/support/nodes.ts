/** Some real nodes on one database and nothing else between them, for tests of what needs no Redis and no proxies. */
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { SERVER_ENGINE, type TestDb } from './engines.ts'
import { createNode, type RealNode } from './node.ts'

export interface Nodes {
  readonly testDb: TestDb
  readonly nodes: readonly RealNode[]
  /** One more, not started. */
  add(env?: Readonly<Record<string, string>>): Promise<RealNode>
  /** Runs a command beside the nodes. */
  run(words: readonly string[], env?: Readonly<Record<string, string>>): Promise<{ code: number; text: string }>
}

/**
 * @param count of nodes that are started and waited for; the first is the master
 * @param env variables that every node gets
 */
export const withNodes = async (
  count: number,
  env: Readonly<Record<string, string>>,
  work: (nodes: Nodes) => Promise<void>,
): Promise<void> => {
  if (!SERVER_ENGINE) throw new Error('nodes that share a database need a server: set TEST_SERVERS')
  const testDb = await SERVER_ENGINE.freshDb({ isEmpty: true })
  const nodes: RealNode[] = []
  const common = { ...testDb.env, WORKERS: '1', LEDGER_LEASE: '6', ...env }
  const add = async (own: Readonly<Record<string, string>> = {}): Promise<RealNode> => {
    const number = nodes.length
    const node = await createNode({
      env: { ...common, NODE_NAME: `node-${number}`, ...(number > 0 && { NODE_TYPE: 'slave' }), ...own },
    })
    nodes.push(node)
    return node
  }
  const run: Nodes['run'] = async (words, own = {}) => {
    const binary = process.env['HEADGATE_BINARY']
    const source = [process.execPath, '--no-env-file', join(import.meta.dir, '..', '..', 'src', 'main.ts')]
    const child = Bun.spawn([...(binary ? [binary] : source), ...words], {
      // No `.env` of anybody.
      cwd: tmpdir(),
      env: { PATH: process.env['PATH'] ?? '', ...common, ...own },
      stdin: 'ignore',
      stdout: 'pipe',
      stderr: 'pipe',
    })
    const texts = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()])
    return { code: await child.exited, text: texts.join('') }
  }
  try {
    for (let number = 0; number < count; number++) (await add()).start()
    await Promise.all(nodes.map((node) => node.ready(60_000)))
    await work({ testDb, nodes, add, run })
  } finally {
    await Promise.all(nodes.map((node) => node.remove()))
    await testDb.close()
  }
}
