/** Rules of single options that a schema cannot say. Each returns what is wrong, for people, or undefined. */
import type { TextOf } from '../option.ts'
import { parseStatusCodes } from '../status-codes.ts'

/** The terms an operator confirms before the site may give quota away or take payments. */
const COMPLIANCE_TERMS_VERSION = 'v1'

export function needsCompliance(value: unknown, textOf: TextOf): string | undefined {
  const isConfirmed =
    textOf('payment_setting.compliance_confirmed') === 'true' &&
    textOf('payment_setting.compliance_terms_version') === COMPLIANCE_TERMS_VERSION
  return value === 0 || isConfirmed ? undefined : 'needs the confirmation of payment compliance'
}

export const statusCodes = (value: unknown): string | undefined =>
  parseStatusCodes(String(value)) ? undefined : 'must list codes and ranges from 100 to 599, such as 401,500-503'

export const onlyDefaultTheme = (value: unknown): string | undefined =>
  value === 'default' ? undefined : 'can only be default'

export const notWritable = (): string | undefined => 'cannot be written here'
