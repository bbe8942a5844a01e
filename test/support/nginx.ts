/** nginx from a configuration as people write it, with addresses and paths replaced; it ends with this process. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { eventually } from './eventually.ts'
import { freePort, spawnTied } from './services.ts'

export interface Nginx {
  readonly url: string
  /** All its processes descend from this one. */
  readonly pid: number
  /** Lines of the access log so far. */
  accessLog(): Promise<readonly string[]>
  errorLog(): Promise<string>
  stop(): Promise<void>
}

export interface NginxOptions {
  /** What stands for each address of the configuration, such as `master-node-ip:3000`. */
  readonly addresses: Readonly<Record<string, string>>
  /** Further texts to replace, such as time-outs that a test cannot wait for. Each must be there. */
  readonly replace?: Readonly<Record<string, string>>
}

/** @param conf a whole configuration, or blocks that belong into `http` */
export async function startNginx(conf: string, { addresses, replace = {} }: NginxOptions): Promise<Nginx> {
  const folder = await mkdtemp(join(tmpdir(), 'headgate-nginx-'))
  const port = await freePort()
  const place = (name: string): string => join(folder, name)
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
    .map((kind) => `${kind}_temp_path ${place(`${kind}_temp`)};`)
    .join('\n')
  let text = conf
  for (const [from, by] of Object.entries({ ...replace, ...addresses, 'listen 80;': `listen 127.0.0.1:${port};` })) {
    if (!text.includes(from)) throw new Error(`the configuration of nginx does not have \`${from}\``)
    text = text.replaceAll(from, by)
  }
  if (!/^http \{/m.test(text))
    text = `pid /run/nginx.pid;\nevents {}\nhttp {\naccess_log /var/log/nginx/access.log;\n${text}\n}`
  text = text
    .replace(/^http \{/m, `http {\n${temporary}`)
    .replaceAll('/run/nginx.pid', place('pid'))
    .replaceAll('/var/log/nginx/', `${folder}/`)
  // Worker processes outlive a master that is killed, unless they share a namespace that ends with it.
  const isRoot = process.getuid?.() === 0
  const namespace = isRoot && Bun.which('unshare') ? ['unshare', '--pid', '--fork', '--kill-child'] : []
  const directives = `daemon off;${namespace.length > 0 ? '' : ' master_process off;'}${isRoot ? ' user root;' : ''}`
  await writeFile(place('nginx.conf'), text)
  const child = spawnTied(
    [
      ...namespace,
      Bun.which('nginx') ?? '/usr/sbin/nginx',
      '-p',
      folder,
      '-c',
      place('nginx.conf'),
      '-g',
      directives,
      '-e',
      place('error.log'),
    ],
    place('out'),
  )
  await eventually(
    'nginx listens',
    async () => {
      if (child.exitCode !== null) throw new Error(await readFile(place('out.err'), 'utf8'))
      const socket = await Bun.connect({ hostname: '127.0.0.1', port, socket: { data: () => {} } })
      socket.end()
      return true
    },
    { withinMs: 20_000 },
  )
  return {
    url: `http://127.0.0.1:${port}`,
    pid: child.pid,
    accessLog: async () => (await readFile(place('access.log'), 'utf8')).split('\n').filter((line) => line !== ''),
    errorLog: () => readFile(place('error.log'), 'utf8').catch(() => ''),
    async stop() {
      child.kill(namespace.length > 0 ? 'SIGKILL' : 'SIGTERM')
      await child.exited
      await rm(folder, { recursive: true, force: true })
    },
  }
}
