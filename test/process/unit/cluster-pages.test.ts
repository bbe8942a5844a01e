/** The pages of the cluster guide tell the truth: what they name exists, and both languages say the same commands. */
import { expect, test } from 'bun:test'
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { IGNORED_VARIABLES, VARIABLES, type Variable } from '../../../src/config-variables.ts'

const ROOT = join(import.meta.dir, '../../..')
const FOLDER = join(ROOT, 'compose')
const PAGES = ['README', 'updating', 'compose-files', 'variables'] as const
const LANGUAGES = ['', '.zh'] as const
const FILES = PAGES.flatMap((page) => LANGUAGES.map((language) => `${page}${language}.md`))

const read = (path: string): Promise<string> => Bun.file(path).text()
const all = async (): Promise<string> => (await Promise.all(FILES.map((file) => read(join(FOLDER, file))))).join('\n')
const source = async (...files: readonly string[]): Promise<string> =>
  (await Promise.all(files.map((file) => read(join(ROOT, 'src', file))))).join('\n')

/** Fenced blocks without comments and blanks at the ends of lines. */
const blocks = (text: string): readonly string[] =>
  [...text.matchAll(/^```\w*\n([\s\S]*?)^```/gm)].map(([, block = '']) => block.replace(/\s+#\s.*$/gm, '').trim())

/** As GitHub makes them of headings. */
const anchors = (text: string): readonly string[] =>
  [...text.matchAll(/^#+ (.+)$/gm)].map(([, heading = '']) =>
    heading
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, '')
      .replaceAll(' ', '-'),
  )

for (const page of PAGES)
  test(`${page} has the same commands and files in both languages`, async () => {
    const [english, chinese] = await Promise.all(LANGUAGES.map((each) => read(join(FOLDER, `${page}${each}.md`))))
    expect(blocks(chinese ?? '')).toEqual([...blocks(english ?? '')])
    expect(anchors(chinese ?? '').length).toBe(anchors(english ?? '').length)
  })

for (const file of FILES)
  test(`every link of ${file} leads somewhere`, async () => {
    const text = await read(join(FOLDER, file))
    const links = [...text.matchAll(/\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)/g)]
    expect(links.length).toBeGreaterThan(1)
    for (const [link, path = '', anchor] of links) {
      const target = path === '' ? join(FOLDER, file) : join(dirname(join(FOLDER, file)), path)
      expect([link, existsSync(target)]).toEqual([link, true])
      if (anchor !== undefined) expect(anchors(await read(target))).toContain(decodeURIComponent(anchor))
    }
  })

test('every metric, variable, command and alert that the pages name exists', async () => {
  const text = await all()
  const metrics = new Set(await source('metrics.ts').then((code) => code.match(/headgate_[a-z_]+/g) ?? []))
  const named = new Set(text.match(/headgate_[a-z_]+/g) ?? [])
  expect(named.size).toBeGreaterThan(5)
  for (const name of named) expect([...metrics]).toContain(name)

  const known = new Set([
    ...Object.values(VARIABLES).flatMap((each: Variable<unknown>) => [each.name, ...each.aliases]),
    ...IGNORED_VARIABLES,
    // Of Compose and of the servers in its files, not of the gateway.
    ...['HEADGATE_IMAGE', 'HEADGATE_PORT', 'MYSQL_ROOT_PASSWORD', 'MYSQL_PASSWORD', 'REDISCLI_AUTH', 'NAME', 'TOKEN'],
  ])
  const variables = new Set(text.match(/(?<![\w/-])[A-Z][A-Z]+_[A-Z_]*[A-Z](?![\w/-])/g) ?? [])
  expect(variables.size).toBeGreaterThan(20)
  for (const name of variables) if (name !== 'CMD') expect([name, known.has(name)]).toEqual([name, true])

  const help = await source('main.ts')
  for (const [, command = ''] of text.matchAll(/headgate (doctor|keys|backup|restore|version|serve)\b/g))
    expect(help).toContain(`  ${command}`)
  const alerts = await source('jobs/watch-cluster.ts', 'domain/notify/alerts.ts')
  for (const kind of ['node-lost', 'no-master', 'outbox-growing', 'dependency-down', 'channel-disabled', 'job-failed'])
    expect([text.includes(kind), alerts.includes(kind)]).toEqual([true, true])
})

test('what doctor is said to print is what it prints', async () => {
  const code = (
    await source('commands/doctor-redis.ts', 'commands/doctor-cluster.ts', 'commands/doctor-database.ts', 'config.ts')
  ).concat(await source('join.ts', 'commands/serve.ts'))
  for (const said of [
    'REDIS_CONN_STRING: cannot be used',
    "differs from the cluster's",
    'is not the same everywhere',
    'is not set, so this node makes its own',
    'a database is awaited',
    'another headgate runs in this folder',
  ]) {
    expect([said, code.includes(said)]).toEqual([said, true])
    for (const file of ['README.md', 'README.zh.md'])
      expect([said, (await read(join(FOLDER, file))).replace(/\s+/g, ' ').includes(said)]).toEqual([said, true])
  }
})
