/**
 * The image: built from the Dockerfile and run as a container would be, as process 1 of its own namespaces. Needs root,
 * buildah and debootstrap; without them it is left out.
 */
import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { existsSync } from 'node:fs'
import { chmod, mkdir, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { bareEnvironment } from '../process/started-node.ts'
import { eventually } from '../support/eventually.ts'
import { freePort } from '../support/services.ts'
import { ROOT } from './built.ts'

const TOOLS = ['buildah', 'debootstrap', 'unshare', 'nsenter']
const missing = TOOLS.filter((tool) => !Bun.which(tool))
const canBuild = process.platform === 'linux' && process.getuid?.() === 0 && missing.length === 0
if (!canBuild) console.log(`left out: the image (needs root and ${TOOLS.join(', ')})`)

/** What the Dockerfile builds on, made here since no registry of images is needed for a test. */
const RUNTIME_IMAGE = /^FROM (\S+)$/m
const BUILD_IMAGE = /^FROM (\S+) AS build$/m
const USER = 10001

let folder: string

/** @returns standard output */
async function command(words: readonly string[], env: Record<string, string> = {}): Promise<string> {
  const child = Bun.spawn([...words], {
    env: { ...process.env, ...env },
    stdin: 'ignore',
    stdout: 'pipe',
    stderr: 'pipe',
  })
  const [text, errors] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()])
  if ((await child.exited) !== 0) throw new Error(`${words.join(' ')} failed:\n${text}\n${errors}`)
  return text.trim()
}

/** In a mount namespace of its own, so that nothing it mounts outlives it. */
const buildah = (...args: readonly string[]): Promise<string> =>
  command([
    'unshare',
    '-m',
    'buildah',
    '--root',
    join(folder, 'store'),
    '--runroot',
    join(folder, 'run'),
    '--storage-driver',
    'vfs',
    ...args,
  ])

/** A bare Debian, made once and kept between runs. */
async function debianFolder(): Promise<string> {
  const kept = join(ROOT, '.cache', 'debian-bookworm')
  if (existsSync(kept)) return kept
  const unfinished = `${kept}.${process.pid}`
  const sources = await readFile('/etc/apt/sources.list.d/debian.sources', 'utf8').catch(() =>
    readFile('/etc/apt/sources.list', 'utf8'),
  )
  const mirror = /^(?:URIs:|deb)\s+(?:\[[^\]]*\]\s+)?(\S+)/m.exec(sources)?.[1]
  if (!mirror) throw new Error('the sources of apt name no mirror')
  await mkdir(join(ROOT, '.cache'), { recursive: true })
  await command(['debootstrap', '--variant=minbase', 'bookworm', unfinished, mirror])
  await rename(unfinished, kept)
  return kept
}

async function buildImage(): Promise<void> {
  const dockerfile = await readFile(join(ROOT, 'Dockerfile'), 'utf8')
  const bunVersion = /^ARG BUN_VERSION=(\S+)$/m.exec(dockerfile)?.[1] ?? ''
  const runtimeImage = RUNTIME_IMAGE.exec(dockerfile)?.[1] ?? ''
  const buildBase = BUILD_IMAGE.exec(dockerfile)?.[1]?.replace(/\$\{BUN_VERSION\}/, bunVersion) ?? ''
  const base = await buildah('from', 'scratch')
  await buildah('add', '-q', base, await debianFolder(), '/')
  await buildah('commit', '-q', '--format', 'docker', base, runtimeImage)
  await buildah('copy', '-q', base, process.execPath, '/usr/local/bin/bun')
  // The packages come from wherever this machine gets them, trusted as it trusts.
  const certificates = '/etc/ssl/certs/ca-certificates.crt'
  if (existsSync(certificates)) {
    await buildah('copy', '-q', base, certificates, certificates)
    await buildah('config', '--env', `NODE_EXTRA_CA_CERTS=${certificates}`, base)
  }
  await buildah('commit', '-q', '--format', 'docker', base, buildBase)
  await buildah('rm', base)
  await buildah(
    'bud',
    '--isolation',
    'chroot',
    '--format',
    'docker',
    '--pull-never',
    '--build-arg',
    'COMMIT=test',
    '-t',
    'headgate',
    ROOT,
  )
}

interface ImageConfig {
  readonly Env: readonly string[]
  readonly Entrypoint: readonly string[]
  readonly WorkingDir: string
  readonly ExposedPorts: Readonly<Record<string, unknown>>
  readonly Healthcheck: { readonly Test: readonly string[] }
}

if (canBuild) {
  describe('the image', () => {
    let root: string
    let config: ImageConfig

    beforeAll(async () => {
      folder = await mkdtemp(join(tmpdir(), 'headgate-image-'))
      await buildImage()
      const inspected = JSON.parse(await buildah('inspect', '--type', 'image', 'headgate')) as {
        Docker: { config: ImageConfig }
      }
      config = inspected.Docker.config
      root = await buildah('mount', await buildah('from', '--pull-never', 'headgate'))
      // An engine writes this file into every container.
      await writeFile(join(root, 'etc/hosts'), '127.0.0.1 localhost\n::1 localhost\n')
    }, 600_000)
    afterAll(() => rm(folder, { recursive: true, force: true }))

    /** Runs the image's entry point as process 1, with two folders mounted as volumes are. */
    function startContainer(env: Record<string, string>, volumes: { readonly data: string; readonly logs: string }) {
      const script = `mount -t proc proc "$ROOT/proc" && mount --bind "$DATA" "$ROOT/data" && mount --bind "$LOGS" "$ROOT/app/logs" &&
        exec env -i ${[...config.Env, ...Object.entries(env).map(([name, value]) => `${name}=${value}`)].map((pair) => `'${pair}'`).join(' ')} \
        chroot "$ROOT" sh -c 'cd ${config.WorkingDir} && exec "$@"' sh ${config.Entrypoint.map((word) => `'${word}'`).join(' ')}`
      const outer = Bun.spawn(['unshare', '--mount', '--pid', '--fork', '--kill-child', 'sh', '-c', script], {
        env: { ...bareEnvironment(), ROOT: root, DATA: volumes.data, LOGS: volumes.logs },
        stdin: 'ignore',
        stdout: 'ignore',
        stderr: 'inherit',
      })
      const inner = (): Promise<string> =>
        eventually('the container has begun', async () =>
          (await readFile(`/proc/${outer.pid}/task/${outer.pid}/children`, 'utf8')).trim(),
        )
      return {
        outer,
        /** Signals process 1, as an engine does. */
        kill: async (signal: NodeJS.Signals) => process.kill(Number(await inner()), signal),
        /** Runs a line inside, as a health check is. @returns exit code and output */
        async exec(line: string) {
          const child = Bun.spawn(
            [
              'nsenter',
              '--target',
              await inner(),
              '--mount',
              '--pid',
              '--root',
              '--wd',
              'env',
              ...Object.entries(env).map(([name, value]) => `${name}=${value}`),
              'sh',
              '-c',
              line,
            ],
            { stdin: 'ignore', stdout: 'pipe', stderr: 'ignore' },
          )
          return { text: (await new Response(child.stdout).text()).trim(), code: await child.exited }
        },
      }
    }

    test('is small, has what health checks by wget, grep and awk need, and says how it is run', async () => {
      expect(config.ExposedPorts).toEqual({ '3000/tcp': {} })
      expect(config.WorkingDir).toBe('/data')
      for (const program of ['sh', 'wget', 'grep', 'awk']) {
        expect(await command(['chroot', root, 'sh', '-c', `command -v ${program}`])).not.toBe('')
      }
      const kib = Number((await command(['du', '-skx', root])).split('\t')[0])
      expect(kib).toBeLessThan(380 * 1024)
      expect(existsSync(join(root, 'src'))).toBe(false)
    })

    test('owns its volumes, serves as its own user, has a health check that can fail, and drains on SIGTERM as process 1', async () => {
      const volumes = { data: join(folder, 'data'), logs: join(folder, 'logs') }
      await mkdir(volumes.data)
      await mkdir(volumes.logs)
      await writeFile(join(volumes.data, 'left-by-root'), 'x')
      await chmod(join(volumes.data, 'left-by-root'), 0o600)
      const port = await freePort()
      const container = startContainer({ PORT: String(port) }, volumes)
      try {
        await eventually('it is ready', async () => (await fetch(`http://localhost:${port}/readyz`)).ok, {
          withinMs: 30_000,
          everyMs: 50,
        })
        const [kind, check = ''] = config.Healthcheck.Test
        expect(kind).toBe('CMD-SHELL')
        expect((await container.exec(check)).code).toBe(0)
        const guide = `wget -q -O - http://localhost:${port}/api/status | grep -o '"success":\\s*true' | awk -F: '{print $2}'`
        expect(await container.exec(guide)).toEqual({ code: 0, text: 'true' })

        const owners = await Promise.all(
          ['left-by-root', 'one-api.db', 'session-secret'].map((name) => stat(join(volumes.data, name))),
        )
        expect(owners.map(({ uid, gid }) => [uid, gid])).toEqual(owners.map(() => [USER, USER]))
        expect((await readdir(volumes.logs)).length).toBeGreaterThanOrEqual(2)
        const { text } = await container.exec(
          'for p in /proc/[0-9]*; do [ "$(readlink $p/exe)" = /usr/local/bin/headgate ] && sed -n "s/^Uid:[[:space:]]*//p" $p/status; done; :',
        )
        expect(text.split('\n').length).toBe(2)
        for (const line of text.split('\n')) expect(line.split(/\s+/)).toEqual(Array(4).fill(String(USER)))

        await container.kill('SIGSTOP')
        const other = await freePort()
        expect((await container.exec(check.replace(/\$\{PORT:-3000\}/, String(other)))).code).not.toBe(0)
        await container.kill('SIGCONT')
        await container.kill('SIGTERM')
        expect(await container.outer.exited).toBe(0)
      } finally {
        // It changed its user, so the kernel no longer ends it with its parent.
        if (container.outer.exitCode === null) await container.kill('SIGKILL')
        await container.outer.exited
      }
    }, 120_000)
  })
}
