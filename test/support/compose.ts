/**
 * Reads compose files as an engine does (anchors, `${VAR:-default}`, `${VAR:?required}`, `$$`) and starts a node as one of
 * their services says: its environment, volumes, health check and grace, in place of a container. Only what an engine does
 * by itself is added: a port and folders of this machine, and names of hosts that lead somewhere.
 */
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createNode, type RealNode } from './node.ts'

export interface ComposeService {
  readonly name: string
  readonly image: string
  readonly environment: Readonly<Record<string, string>>
  readonly command: readonly string[]
  readonly ports: readonly { readonly published: string; readonly target: string }[]
  readonly volumes: readonly { readonly source: string; readonly target: string }[]
  /** As the engine runs it: `CMD-SHELL` and a line, or `CMD` and words. */
  readonly healthcheck?: { readonly test: readonly string[]; readonly intervalMs: number; readonly retries: number }
  /** What an engine waits between SIGTERM and SIGKILL; 10 seconds by default. */
  readonly stopGraceMs: number
}

/** Texts to replace in values, such as host names and passwords; the first that fits a place wins. */
export type Replacements = readonly (readonly [text: string | RegExp, by: string])[]

/**
 * @param variables what stands in `.env` and in the shell; also what `env_file: .env` hands to the container
 * @throws Error when a variable that the file demands is missing or empty
 */
export function readCompose(
  text: string,
  variables: Readonly<Record<string, string>> = {},
): ReadonlyMap<string, ComposeService> {
  const file = filled(Bun.YAML.parse(text), variables) as { readonly services: Readonly<Record<string, RawService>> }
  return new Map(
    Object.entries(file.services).map(([name, raw]) => [
      name,
      {
        name,
        image: raw.image ?? '',
        environment: { ...(raw.env_file === '.env' ? variables : {}), ...environmentOf(raw.environment) },
        command: typeof raw.command === 'string' ? raw.command.split(' ') : (raw.command ?? []),
        ports: (raw.ports ?? []).map((port) => {
          const [published = '', target = ''] = String(port).split(':')
          return { published, target }
        }),
        volumes: (raw.volumes ?? []).map((volume) => {
          const [source = '', target = ''] = volume.split(':')
          return { source, target }
        }),
        ...(raw.healthcheck && {
          healthcheck: {
            test: raw.healthcheck.test,
            intervalMs: durationMs(raw.healthcheck.interval ?? '30s'),
            retries: raw.healthcheck.retries ?? 3,
          },
        }),
        stopGraceMs: durationMs(raw.stop_grace_period ?? '10s'),
      },
    ]),
  )
}

/** The form that these files use of https://github.com/compose-spec/compose-spec/blob/main/05-services.md */
interface RawService {
  readonly image?: string
  readonly env_file?: string
  readonly environment?: readonly string[] | Readonly<Record<string, string | number | boolean | null>>
  readonly command?: string | readonly string[]
  readonly ports?: readonly (string | number)[]
  readonly volumes?: readonly string[]
  readonly healthcheck?: { readonly test: readonly string[]; readonly interval?: string; readonly retries?: number }
  readonly stop_grace_period?: string
}

export interface RunningService extends Omit<RealNode, 'stop' | 'remove'> {
  readonly service: ComposeService
  /** Runs the service's health check once, or another one in its place. @returns exit code and output */
  check(test?: readonly string[]): Promise<{ readonly code: number; readonly text: string }>
  /** Where a folder of the container lies here. */
  folder(target: string): string
  /** As an engine stops it: SIGTERM, and SIGKILL after the service's grace. @returns the exit code */
  stop(): Promise<number>
  remove(): Promise<void>
}

export interface ServiceOptions {
  readonly replace?: Replacements
  /** Beside the service's own, such as fewer workers on a small machine. */
  readonly env?: Readonly<Record<string, string>>
}

/** Makes a node of a service; `start` starts it, again in the same volumes after an end. */
export async function createService(
  service: ComposeService,
  { replace = [], env = {} }: ServiceOptions = {},
): Promise<RunningService> {
  const root = await mkdtemp(join(tmpdir(), 'headgate-service-'))
  const folders = new Map<string, string>()
  for (const { target } of service.volumes) {
    const folder = join(root, target.replaceAll('/', '_'))
    await mkdir(folder)
    folders.set(target, folder)
  }
  const folder = (target: string): string => {
    const found = folders.get(target)
    if (!found) throw new Error(`${service.name} mounts nothing at ${target}`)
    return found
  }
  const replaced = (text: string): string => replace.reduce((value, [from, by]) => value.replaceAll(from, by), text)
  // The port is the container's own; what the image sets is set here.
  const { PORT: _port, ...own } = service.environment
  const node = await createNode({
    env: {
      DATA_DIR: folder('/data'),
      LOG_DIR: folder('/app/logs'),
      ...Object.fromEntries(Object.entries(own).map(([name, value]) => [name, replaced(value)])),
      ...env,
    },
  })
  return {
    ...node,
    service,
    folder,
    async check(test = service.healthcheck?.test ?? []) {
      const [kind, ...words] = test
      const command = kind === 'CMD-SHELL' ? ['sh', '-c', ...words] : words
      const port = new URL(node.url).port
      const child = Bun.spawn(
        command.map((word) => word.replaceAll('localhost:3000', `localhost:${port}`)),
        { stdin: 'ignore', stdout: 'pipe', stderr: 'ignore' },
      )
      const text = (await new Response(child.stdout).text()).trim()
      return { code: await child.exited, text }
    },
    stop: () => node.stop(service.stopGraceMs),
    async remove() {
      await node.remove()
      await rm(root, { recursive: true, force: true })
    },
  }
}

/** Both forms of `environment`; a name without a value is left out. */
function environmentOf(raw: RawService['environment'] = {}): Record<string, string> {
  const pairs = Array.isArray(raw)
    ? (raw as readonly string[]).map((line) => {
        const equals = line.indexOf('=')
        return [line.slice(0, equals), line.slice(equals + 1)] as const
      })
    : Object.entries(raw).map(([name, value]) => [name, String(value ?? '')] as const)
  return Object.fromEntries(pairs)
}

function filled(value: unknown, variables: Readonly<Record<string, string>>): unknown {
  if (typeof value === 'string') return interpolate(value, variables)
  if (Array.isArray(value)) return value.map((item) => filled(item, variables))
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, filled(item, variables)]))
}

/** @source https://github.com/compose-spec/compose-spec/blob/main/12-interpolation.md */
function interpolate(text: string, variables: Readonly<Record<string, string>>): string {
  return text.replace(
    /\$(?:(\$)|\{(\w+)(?:(:?[-?])([^}]*))?\}|(\w+))/g,
    (_, escaped: string, braced: string, operator = '', operand = '', bare = '') => {
      if (escaped) return '$'
      const name = braced ?? bare
      const value = variables[name]
      const isMissing = operator.startsWith(':') ? !value : value === undefined
      if (isMissing && operator.endsWith('?')) throw new Error(`required variable ${name} is missing: ${operand}`)
      return isMissing && operator.endsWith('-') ? operand : (value ?? '')
    },
  )
}

/** @param text such as `150s` or `1m30s` */
function durationMs(text: string): number {
  const units = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 } as const
  return [...text.matchAll(/(\d+)(ms|s|m|h)/g)].reduce(
    (sum, [, count, unit]) => sum + Number(count) * units[unit as keyof typeof units],
    0,
  )
}
