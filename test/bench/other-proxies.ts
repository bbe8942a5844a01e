/** Proxies of others that Headgate is measured beside: nginx, and Portkey's gateway, which does no accounting. */
import { existsSync } from 'node:fs'
import { mkdir, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { eventually } from '../support/eventually.ts'
import { startNginx } from '../support/nginx.ts'
import { freePort, spawnTied } from '../support/services.ts'
import type { Program, Rig } from './rig.ts'

export const PORTKEY = { package: '@portkey-ai/gateway', version: '1.15.2' } as const

/** A program that may be missing on a machine; then its rows say why. */
export type Optional =
  | (Program & { readonly headers?: Readonly<Record<string, string>> })
  | { readonly missing: string }

/** The least that nginx needs to be a proxy, with kept connections on both sides and no log. */
const nginxConf = (address: string): string => `
pid /run/nginx.pid;
worker_processes 1;
events { worker_connections 2048; }
http {
  access_log off;
  upstream mock { server ${address}; keepalive 128; keepalive_requests 1000000000; }
  server {
    listen 80;
    keepalive_requests 1000000000;
    location / {
      proxy_pass http://mock;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }
  }
}
`

export async function startNginxProxy({ mock }: Rig): Promise<Optional> {
  if (!Bun.which('nginx') && !existsSync('/usr/sbin/nginx')) return { missing: 'nginx is not installed' }
  return startNginx(nginxConf(new URL(mock.url).host), { addresses: {} })
}

/** Installed once, when first asked for: the project does not depend on it. */
export async function startPortkey({ folder, mock }: Rig): Promise<Optional> {
  const node = Bun.which('node')
  if (!node) return { missing: 'Node.js is not installed' }
  const home = await installPortkey()
  if (!home) return { missing: `${PORTKEY.package} ${PORTKEY.version} cannot be installed` }
  const port = await freePort()
  const output = join(folder, 'portkey')
  const script = join(home, 'node_modules', PORTKEY.package, 'build', 'start-server.js')
  const child = spawnTied(['env', 'NODE_ENV=production', node, script, `--port=${port}`, '--headless'], output)
  const stop = async (): Promise<void> => {
    child.kill('SIGKILL')
    await child.exited
  }
  const connect = async (): Promise<true> => {
    const socket = await Bun.connect({ hostname: '127.0.0.1', port, socket: { data: () => {} } })
    socket.end()
    return true
  }
  try {
    await eventually('Portkey listens', connect, { withinMs: 30_000, everyMs: 50 })
  } catch (error) {
    await stop()
    return { missing: `${PORTKEY.package} ${PORTKEY.version} does not start: ${error}` }
  }
  return {
    url: `http://127.0.0.1:${port}`,
    pid: child.pid,
    headers: { 'x-portkey-provider': 'openai', 'x-portkey-custom-host': `${mock.url}/v1` },
    stop,
  }
}

/** @returns the folder that it is installed in; undefined without a registry */
async function installPortkey(): Promise<string | undefined> {
  const home = join(import.meta.dir, '..', '..', '.cache', 'bench', `portkey-${PORTKEY.version}`)
  if (existsSync(home)) return home
  const unfinished = `${home}.${process.pid}`
  await mkdir(unfinished, { recursive: true })
  await writeFile(
    join(unfinished, 'package.json'),
    JSON.stringify({ private: true, dependencies: { [PORTKEY.package]: PORTKEY.version } }),
  )
  const install = Bun.spawn([process.execPath, 'install', '--production', '--ignore-scripts'], {
    cwd: unfinished,
    stdio: ['ignore', 'ignore', 'ignore'],
  })
  if ((await install.exited) === 0) {
    await rename(unfinished, home)
    return home
  }
  await rm(unfinished, { recursive: true, force: true })
  return undefined
}
