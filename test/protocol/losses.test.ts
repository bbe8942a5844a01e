import { expect, test } from 'bun:test'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Glob } from 'bun'
import { FIXTURES } from './kit.ts'

const SOURCE = join(import.meta.dir, '..', '..', 'src', 'protocol')
const LISTED = new Set(
  [...readFileSync(join(SOURCE, 'losses.md'), 'utf8').matchAll(/`([^`\s]+)`/g)].map((match) => match[1]),
)

/** As listed: `tools[].type.bash` stands under `tools[].type.*`, paths of answers under those of messages. */
const asListed = (path: string): string =>
  path.replace(/^(content\[\]\.|choices\[\]\.message\.)/, (scope) =>
    scope === 'content[].' ? 'messages[].content[].' : 'messages[].',
  )

const isListed = (path: string): boolean => LISTED.has(path) || LISTED.has(path.replace(/\.type\.[^.]+$/, '.type.*'))

test('every loss that a codec can report is listed', () => {
  const unlisted: string[] = []
  let found = 0
  for (const name of new Glob('**/*.ts').scanSync(SOURCE)) {
    const code = readFileSync(join(SOURCE, name), 'utf8')
    for (const [, path = ''] of code.matchAll(/losses\.add\(\s*['`]([^'`]+)['`]/g)) {
      found++
      const known = asListed(path.replace(/\$\{.*$/, '*'))
      if (!isListed(known)) unlisted.push(`${name}: ${path}`)
    }
  }
  expect(found).toBeGreaterThan(30)
  expect(unlisted).toEqual([])
})

test('losses of the known conversions are listed, or are fields of the source itself', () => {
  const folder = join(FIXTURES, 'golden')
  for (const name of readdirSync(folder).filter((file) => file.includes('request') && file.endsWith('.json'))) {
    const { losses } = JSON.parse(readFileSync(join(folder, name), 'utf8')) as { losses: { path: string }[] }
    const source = readFileSync(join(FIXTURES, name.replace(/^(\w+)-(.*)\.to-.*$/, '$1/$2.json')), 'utf8')
    for (const { path } of losses) {
      const field = path.split('.').at(-1) as string
      expect({ path, isKnown: isListed(path) || source.includes(`"${field}"`) }).toEqual({ path, isKnown: true })
    }
  }
})
