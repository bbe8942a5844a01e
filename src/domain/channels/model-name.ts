/** Model names that stand for a family: a channel may offer the family once instead of each name. */

const FAMILIES: readonly (readonly [prefix: string, contains: string, family: string])[] = [
  ['gemini-2.5-flash-lite', '-thinking-', 'gemini-2.5-flash-lite-thinking-*'],
  ['gemini-2.5-flash', '-thinking-', 'gemini-2.5-flash-thinking-*'],
  ['gemini-2.5-pro', '-thinking-', 'gemini-2.5-pro-thinking-*'],
  ['gpt-4-gizmo', '', 'gpt-4-gizmo-*'],
  ['gpt-4o-gizmo', '', 'gpt-4o-gizmo-*'],
]

/** @returns the family's name, or the model itself; used for the second look-up of channels and for model limits */
export const normaliseModel = (model: string): string =>
  FAMILIES.find(([prefix, contains]) => model.startsWith(prefix) && model.includes(contains))?.[2] ?? model
