/** The compiled binary needs nothing but itself and an empty folder: it starts, serves a call, and drains. */
import { afterAll, beforeAll, expect, test } from 'bun:test'
import { readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import packageJson from '../../package.json'
import { type StartedNode, startNode, temporaryFolder } from '../process/started-node.ts'
import { eventually } from '../support/eventually.ts'
import { startUpstream } from '../support/upstream.ts'
import { type BuiltBinary, buildBinary } from './built.ts'
import { runFirstCall } from './readme-lines.ts'

let binary: BuiltBinary
beforeAll(async () => {
  binary = await buildBinary()
}, 120_000)
afterAll(() => binary.remove())

const run = async (args: readonly string[], cwd: string, env: Record<string, string> = {}) => {
  const node = startNode([binary.path, ...args], { cwd, env })
  const code = await node.process.exited
  await node.end()
  return { code, text: node.lines.map((line) => line['text'] ?? '').join('\n'), errors: node.stderr() }
}

async function serving(node: StartedNode): Promise<number> {
  const port = await node.port()
  await eventually('it is ready', async () => (await fetch(`http://localhost:${port}/readyz`)).ok, { withinMs: 20_000 })
  return port
}

test('on an empty folder it becomes ready, answers the probes in the expected shapes, and ends with 0', async () => {
  const folder = await temporaryFolder()
  const node = startNode([binary.path], { cwd: folder.path })
  try {
    const port = await serving(node)
    expect(await (await fetch(`http://localhost:${port}/healthz`)).text()).toBe('ok\n')
    expect(await (await fetch(`http://localhost:${port}/readyz`)).json()).toEqual({
      ready: true,
      missing: [],
      dependencies: ['database', 'journal', 'schema'].map((name) => ({ name, up: true })),
    })
    const status = await (await fetch(`http://localhost:${port}/api/status`)).text()
    expect(status).toStartWith('{"success":true,"message":"","data":{')
    expect(JSON.parse(status).data).toMatchObject({ version: packageJson.version, setup: false })
    node.process.kill('SIGTERM')
    expect(await node.process.exited).toBe(0)
    expect(await readdir(folder.path)).toContain('one-api.db')
  } finally {
    await node.end()
    await folder.remove()
  }
}, 60_000)

test("the README's lines set it up and give a completion from the scripted upstream, and a restart keeps it all", async () => {
  const folder = await temporaryFolder()
  const upstream = startUpstream({ port: 0 })
  let node = startNode([binary.path], { cwd: folder.path })
  try {
    const printed = await runFirstCall({ gateway: await serving(node), upstream: upstream.port })
    expect(printed).toContain('"object":"chat.completion"')
    expect(upstream.requests.length).toBeGreaterThan(0)
    node.process.kill('SIGTERM')
    expect(await node.process.exited).toBe(0)
    node = startNode([binary.path], { cwd: folder.path })
    const port = await serving(node)
    const { data } = (await (await fetch(`http://localhost:${port}/api/status`)).json()) as { data: { setup: boolean } }
    expect(data.setup).toBe(true)
  } finally {
    await node.end()
    await upstream.stop()
    await folder.remove()
  }
}, 60_000)

test('commands: version, help, doctor; a wrong one ends with 64', async () => {
  const folder = await temporaryFolder()
  try {
    const version = await run(['version'], folder.path)
    expect(version.code).toBe(0)
    expect(version.text).toStartWith(`headgate ${packageJson.version} (`)
    expect((await run(['--version'], folder.path)).text).toBe(version.text)
    const help = await run(['--help'], folder.path)
    for (const word of ['serve', 'doctor', 'version', '--port', '--log-dir']) expect(help.text).toContain(word)
    expect((await run(['dance'], folder.path)).code).toBe(64)
    expect((await run(['--dance'], folder.path)).code).toBe(64)
    const doctor = await run(['doctor'], folder.path, { SESSION_SECRET: 'canary-canary-canary-canary' })
    expect(doctor.code).toBe(0)
    expect(doctor.text).toContain('No problem found.')
    expect(doctor.text).not.toContain('canary')
    // Looking changes nothing.
    expect(await readdir(folder.path)).toEqual([])
  } finally {
    await folder.remove()
  }
}, 60_000)

test('it reads .env of its folder, as from source, and nothing else beside it', async () => {
  const folder = await temporaryFolder()
  await writeFile(join(folder.path, '.env'), 'NODE_NAME=from-env-file\n')
  await writeFile(join(folder.path, '.env.local'), 'NODE_NAME=wrong\nSQLITE_PATH=wrong.db\n')
  await writeFile(join(folder.path, 'bunfig.toml'), 'preload = ["./absent.ts"]\n')
  const node = startNode([binary.path, '--log-dir', 'logs'], { cwd: folder.path })
  try {
    await serving(node)
    expect(node.lines.every((line) => line['node'] === 'from-env-file')).toBe(true)
    const files = await readdir(join(folder.path, 'logs'))
    expect(files.some((name) => name.includes('-supervisor-'))).toBe(true)
    expect(files.some((name) => name.includes('-worker0-'))).toBe(true)
    expect(await readdir(folder.path)).not.toContain('wrong.db')
  } finally {
    await node.end()
    await folder.remove()
  }
}, 60_000)
