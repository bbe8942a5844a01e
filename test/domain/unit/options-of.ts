/** Options without a database: the defaults, changed by texts as they would be stored. */
import { OPTION_DEFINITIONS, type OptionValues } from '../../../src/domain/options/definitions/index.ts'
import type { Options } from '../../../src/domain/options/index.ts'

export function optionsOf(texts: Readonly<Record<string, string>> = {}): Pick<Options, 'get' | 'state'> {
  const values = Object.fromEntries(
    OPTION_DEFINITIONS.map(({ key, default: standard, read }) => {
      const text = texts[key]
      return [key, text === undefined ? standard : (read(text).value ?? standard)]
    }),
  ) as unknown as OptionValues
  const state = { texts: new Map(Object.entries(texts)), values }
  return { get: (key) => values[key], state: () => state }
}
