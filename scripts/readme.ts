/**
 * Writes the tables of variables from their definitions, between two markers: into the README and into the pages of the
 * cluster guide, one of which is in Chinese. With `--check` it only says whether the tables are as they should be.
 */
import { join } from 'node:path'
import { IGNORED_VARIABLES, SECTIONS, VARIABLES, type Variable, type VariableKey } from '../src/config-variables.ts'
import { DESCRIPTIONS_ZH, SECTIONS_ZH } from './variables-zh.ts'

const BEGIN = '<!-- variables: made by `bun scripts/readme.ts` -->'
const END = '<!-- /variables -->'

interface Language {
  readonly sections: Readonly<Record<string, string>>
  readonly columns: readonly [fallback: string, meaning: string]
  readonly describe: (key: VariableKey) => string
  readonly ignored: (names: readonly string[]) => string
}

const ENGLISH: Language = {
  sections: SECTIONS,
  columns: ['Default', 'Meaning'],
  describe: (key) => VARIABLES[key].description,
  ignored: (names) => `Accepted and without effect in this release: ${names.join(', ')}.`,
}
const CHINESE: Language = {
  sections: SECTIONS_ZH,
  columns: ['默认值', '说明'],
  describe: (key) => DESCRIPTIONS_ZH[key] ?? VARIABLES[key].description,
  ignored: (names) => `可以设置、但在本版本中不起作用：${names.join('、')}。`,
}

/** Pages that have the table, from the root of the repository. */
export const PAGES = ['README.md', 'compose/variables.md', 'compose/variables.zh.md'] as const

/** A page's text with the table as the definitions have it. @throws if the markers are not there */
export function withVariables(page: string, path: string = PAGES[0]): string {
  const begin = page.indexOf(BEGIN)
  const end = page.indexOf(END)
  if (begin < 0 || end < begin) throw new Error(`${path} lacks the markers of the table of variables`)
  return `${page.slice(0, begin + BEGIN.length)}\n${table(path.endsWith('.zh.md') ? CHINESE : ENGLISH)}\n${page.slice(end)}`
}

function table({ sections, columns, describe, ignored }: Language): string {
  const variables = Object.entries(VARIABLES) as unknown as readonly (readonly [VariableKey, Variable<unknown>])[]
  const parts = Object.keys(SECTIONS).map((section) => {
    const rows = variables
      .filter(([, variable]) => variable.section === section)
      .map(([key, variable]) => `| ${names(variable)} | ${fallback(variable)} | ${describe(key)} |`)
    return `\n| ${sections[section]} | ${columns.join(' | ')} |\n| --- | --- | --- |\n${rows.join('\n')}`
  })
  return `${parts.join('\n')}\n\n${ignored(IGNORED_VARIABLES.map((name) => `\`${name}\``))}\n`
}

const names = (variable: Variable<unknown>): string =>
  [variable.name, ...variable.aliases].map((name) => `\`${name}\``).join(', ')

function fallback({ fallback: value }: Variable<unknown>): string {
  const text = Array.isArray(value) ? value.join(',') : String(value)
  return text === '' ? '' : `\`${text}\``
}

if (import.meta.main) {
  for (const page of PAGES) {
    const path = join(import.meta.dir, '..', page)
    const before = await Bun.file(path).text()
    const after = withVariables(before, page)
    if (!process.argv.includes('--check')) await Bun.write(path, after)
    else if (before !== after) {
      console.error(`The table of variables in ${page} is not up to date; run \`bun scripts/readme.ts\`.`)
      process.exitCode = 1
    }
  }
}
