/** The README tells the truth about the configuration. */
import { expect, test } from 'bun:test'
import { join } from 'node:path'
import { withVariables } from '../../../scripts/readme.ts'

test('its table of variables is the one of the definitions', async () => {
  const readme = await Bun.file(join(import.meta.dir, '../../../README.md')).text()
  expect(readme).toBe(withVariables(readme))
  expect(readme).toContain('| `SQL_DSN` |')
})
