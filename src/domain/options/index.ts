/** Options and what is derived from them. Nothing outside this folder reaches past this file. */
export { createBaseUrl } from './base-url.ts'
export type { OptionKey, OptionValue } from './definitions/index.ts'
export { autoGroups, groupRatio, selectableGroups, specialGroupRatio, usableGroups } from './groups.ts'
export { hasSecretEnding, type OptionDefinition } from './option.ts'
export { createOptions, type Options, type OptionsState, type OptionText } from './options.ts'
export { hasStatus, parseStatusCodes, type StatusRange } from './status-codes.ts'
