/** The README and the cluster's pages tell the truth about the configuration. */
import { expect, test } from 'bun:test'
import { join } from 'node:path'
import { PAGES, withVariables } from '../../../scripts/readme.ts'

for (const page of PAGES)
  test(`the table of variables of ${page} is the one of the definitions`, async () => {
    const text = await Bun.file(join(import.meta.dir, '../../..', page)).text()
    expect(text).toBe(withVariables(text, page))
    expect(text).toContain('| `SQL_DSN` |')
  })
