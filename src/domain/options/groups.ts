/** Which groups a user may use and what they cost: pure readings of the options. */
import type { Options } from './options.ts'

type Reads = Pick<Options, 'get'>

/** Factor for this user group in this used group, or undefined when the used group's own factor counts. */
export const specialGroupRatio = (options: Reads, userGroup: string, usingGroup: string): number | undefined =>
  options.get('GroupGroupRatio')[userGroup]?.[usingGroup]

/** Price factor of a call; 1 for a group that is not listed. */
export const groupRatio = (options: Reads, userGroup: string, usingGroup: string): number =>
  specialGroupRatio(options, userGroup, usingGroup) ?? options.get('GroupRatio')[usingGroup] ?? 1

/**
 * Groups a user of this group may use, with descriptions: those open to all, changed by the rules of the user's group
 * (`+:name` or `name` adds, `-:name` removes), and always the user's own. An empty user group is a visitor.
 */
export function usableGroups(options: Reads, userGroup: string): Map<string, string> {
  const groups = new Map(Object.entries(options.get('UserUsableGroups')))
  const rules = options.get('group_ratio_setting.group_special_usable_group')[userGroup] ?? {}
  for (const [rule, description] of Object.entries(rules)) {
    if (rule.startsWith('-:')) groups.delete(rule.slice(2))
    else groups.set(rule.startsWith('+:') ? rule.slice(2) : rule, description)
  }
  if (userGroup !== '' && !groups.has(userGroup)) groups.set(userGroup, userGroup)
  return groups
}

/** Usable groups that exist, that is, have a price factor. */
export function selectableGroups(options: Reads, userGroup: string): Map<string, string> {
  const existing = options.get('GroupRatio')
  return new Map([...usableGroups(options, userGroup)].filter(([group]) => Object.hasOwn(existing, group)))
}

/**
 * Groups that `auto` stands for, in order.
 * @param own the API key's own list, which replaces the option's where it is not empty
 */
export function autoGroups(options: Reads, userGroup: string, own: readonly string[] = []): readonly string[] {
  const wanted = own.length > 0 ? own.slice(0, options.get('MaxTokenAutoGroups')) : options.get('AutoGroups')
  const selectable = selectableGroups(options, userGroup)
  return [...new Set(wanted)].filter((group) => selectable.has(group))
}
