/** Body fields that are taken out before sending, unless the channel lets them through: they change price or privacy. */
import type { ChannelSettings } from './channel.ts'

export interface FieldFilter {
  /** Property names from the top of the body. */
  readonly path: readonly string[]
  /** The setting of the channel that lets the field through. */
  readonly allowedBy?: string
  /** The setting that takes the field out; without it the field stays. */
  readonly removedBy?: string
}

export const FIELD_FILTERS: readonly FieldFilter[] = [
  { path: ['service_tier'], allowedBy: 'allow_service_tier' },
  { path: ['inference_geo'], allowedBy: 'allow_inference_geo' },
  { path: ['speed'], allowedBy: 'allow_speed' },
  { path: ['safety_identifier'], allowedBy: 'allow_safety_identifier' },
  { path: ['stream_options', 'include_obfuscation'], allowedBy: 'allow_include_obfuscation' },
  { path: ['store'], removedBy: 'disable_store' },
]

/** @returns the paths to take out of a call's body on a channel with these settings */
export const filteredFields = (settings: ChannelSettings): readonly (readonly string[])[] =>
  FIELD_FILTERS.filter(({ allowedBy, removedBy }) =>
    removedBy === undefined ? settings[allowedBy ?? ''] !== true : settings[removedBy] === true,
  ).map(({ path }) => path)
