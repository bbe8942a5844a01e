/** The README's way in: `scripts/dev` and `scripts/upstream`, then the pasted lines. */
import { expect, test } from 'bun:test'
import { join } from 'node:path'
import { runFirstCall } from '../binary/readme-lines.ts'
import { eventually } from '../support/eventually.ts'
import { freePort } from '../support/services.ts'
import { startNode, temporaryFolder } from './started-node.ts'

const ROOT = join(import.meta.dir, '..', '..')

test('scripts/dev and scripts/upstream are all that the lines of the first call need', async () => {
  const folder = await temporaryFolder()
  const env = { SQLITE_PATH: join(folder.path, 'one-api.db'), DATA_DIR: folder.path }
  const node = startNode([join(ROOT, 'scripts/dev')], { cwd: ROOT, env })
  const upstreamPort = await freePort()
  const upstream = startNode([join(ROOT, 'scripts/upstream'), '--port', String(upstreamPort)], { cwd: ROOT })
  try {
    const port = await node.port()
    await eventually('both answer', async () => {
      const answers = await Promise.all([
        fetch(`http://localhost:${port}/readyz`),
        fetch(`http://localhost:${upstreamPort}/v1/models`),
      ])
      return answers[0].ok
    })
    expect(await runFirstCall({ gateway: port, upstream: upstreamPort })).toContain('"object":"chat.completion"')
    node.process.kill('SIGTERM')
    expect(await node.process.exited).toBe(0)
  } finally {
    await node.end()
    await upstream.end()
    await folder.remove()
  }
}, 120_000)
