/**
 * Writes the README's table of variables from their definitions, between its two markers. With `--check` it only says
 * whether the table is as it should be.
 */
import { join } from 'node:path'
import { IGNORED_VARIABLES, SECTIONS, VARIABLES, type Variable } from '../src/config-variables.ts'

const BEGIN = '<!-- variables: made by `bun scripts/readme.ts` -->'
const END = '<!-- /variables -->'

/** The README's text with the table as the definitions have it. @throws if the markers are not there */
export function withVariables(readme: string): string {
  const begin = readme.indexOf(BEGIN)
  const end = readme.indexOf(END)
  if (begin < 0 || end < begin) throw new Error('the README lacks the markers of the table of variables')
  return `${readme.slice(0, begin + BEGIN.length)}\n${table()}\n${readme.slice(end)}`
}

function table(): string {
  const sections = Object.entries(SECTIONS).map(([section, title]) => {
    const rows = Object.values(VARIABLES)
      .filter((variable) => variable.section === section)
      .map((variable: Variable<unknown>) => `| ${names(variable)} | ${fallback(variable)} | ${variable.description} |`)
    return `\n| ${title} | Default | Meaning |\n| --- | --- | --- |\n${rows.join('\n')}`
  })
  const ignored = IGNORED_VARIABLES.map((name) => `\`${name}\``).join(', ')
  return `${sections.join('\n')}\n\nAccepted and without effect in this release: ${ignored}.\n`
}

const names = (variable: Variable<unknown>): string =>
  [variable.name, ...variable.aliases].map((name) => `\`${name}\``).join(', ')

function fallback({ fallback: value }: Variable<unknown>): string {
  const text = Array.isArray(value) ? value.join(',') : String(value)
  return text === '' ? '' : `\`${text}\``
}

if (import.meta.main) {
  const path = join(import.meta.dir, '..', 'README.md')
  const before = await Bun.file(path).text()
  const after = withVariables(before)
  if (process.argv.includes('--check')) {
    if (before !== after)
      console.error('The table of variables in the README is not up to date; run `bun scripts/readme.ts`.')
    process.exitCode = before === after ? 0 : 1
  } else await Bun.write(path, after)
}
