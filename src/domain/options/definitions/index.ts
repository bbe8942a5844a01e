/** All options of the gateway, in the order of the console's pages. */
import type { OptionDefinition } from '../option.ts'
import { accountOptions } from './accounts.ts'
import { alertOptions } from './alerts.ts'
import { billingOptions } from './billing.ts'
import { channelOptions } from './channels.ts'
import { paymentOptions } from './payment.ts'
import { relayOptions } from './relay.ts'
import { siteOptions } from './site.ts'

const ALL = [
  ...accountOptions,
  ...siteOptions,
  ...billingOptions,
  ...channelOptions,
  ...relayOptions,
  ...paymentOptions,
  ...alertOptions,
] as const

type Definitions = (typeof ALL)[number]

/** Value type by key. */
export type OptionValues = { readonly [D in Definitions as D['key']]: D['default'] }
export type OptionKey = keyof OptionValues
export type OptionValue<K extends OptionKey> = OptionValues[K]

export const OPTION_DEFINITIONS: readonly OptionDefinition[] = ALL
