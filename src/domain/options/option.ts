/**
 * What an option is: a key, the type of its value, its default, and how its stored text is read. Options are stored as
 * text, whatever their type, so that existing tools and databases keep working.
 */
import { type Static, type TSchema, Type } from '@sinclair/typebox'
import { Value } from '@sinclair/typebox/value'

/** Values are frozen, so their types say so. */
export type DeepReadonly<T> = T extends readonly (infer Item)[]
  ? readonly DeepReadonly<Item>[]
  : T extends object
    ? { readonly [Name in keyof T]: DeepReadonly<T[Name]> }
    : T

/** Reads the effective text of another option, for rules that span several. */
export type TextOf = (key: string) => string

export interface OptionTraits {
  /** Also shown to visitors without an account. */
  readonly isPublic?: boolean
  /** Never shown, not even to root. Without it the ending of the key decides. */
  readonly isSecret?: boolean
  /** Listed only once it was stored; readers tell "unset" from "set to the default". */
  readonly isUnset?: boolean
  /** Options that must have a text before this one may be switched on. */
  readonly needs?: readonly string[]
  /** Other keys under which the same option is stored and shown. */
  readonly aliases?: readonly string[]
  /** The default's stored text, where it is not simply the default written out. */
  readonly defaultText?: string
  /** Rules beyond the schema. @returns what is wrong, for people, or undefined */
  readonly check?: (value: unknown, textOf: TextOf) => string | undefined
}

/** `value`: what was understood; `problem`: what was not (the value then lacks it, or is undefined). */
export interface Reading {
  readonly value: unknown
  readonly problem: string | undefined
}

export interface OptionDefinition<K extends string = string, V = unknown> {
  readonly key: K
  readonly schema: TSchema
  readonly default: V
  readonly defaultText: string
  readonly label: string
  readonly isPublic: boolean
  readonly isSecret: boolean
  readonly isUnset: boolean
  readonly needs: readonly string[]
  readonly aliases: readonly string[]
  readonly check: OptionTraits['check']
  /** Reads a stored text leniently: what is wrong in it is named, what is right is kept. */
  read(text: string): Reading
}

/**
 * One option. The schema decides how the text is read: booleans and numbers as words, strings as they are, all else as JSON.
 * @throws Error when the default is not of the schema: a mistake in the definition
 */
export function option<const K extends string, S extends TSchema>(
  input: { readonly key: K; readonly schema: S; readonly default: Static<S>; readonly label: string } & OptionTraits,
): OptionDefinition<K, DeepReadonly<Static<S>>> {
  const { key, schema } = input
  const defaultText =
    input.defaultText ?? (typeof input.default === 'string' ? input.default : JSON.stringify(input.default))
  if (!Value.Check(schema, input.default)) throw new Error(`The default of option ${key} is not of its schema`)
  return {
    key,
    schema,
    default: frozen(input.default) as DeepReadonly<Static<S>>, // Checked above; freezing changes no type.
    defaultText,
    label: input.label,
    isPublic: input.isPublic ?? false,
    isSecret: input.isSecret ?? hasSecretEnding(key),
    isUnset: input.isUnset ?? false,
    needs: input.needs ?? [],
    aliases: input.aliases ?? [],
    check: input.check,
    read: (text) => readText(key, schema, text),
  }
}

export const flag = <const K extends string>(key: K, value: boolean, label: string, traits: OptionTraits = {}) =>
  option({ key, schema: Type.Boolean(), default: value, label, ...traits })

export const text = <const K extends string>(key: K, value: string, label: string, traits: OptionTraits = {}) =>
  option({ key, schema: Type.String(), default: value, label, ...traits })

/** A whole number, at least 0 unless the traits say otherwise. */
export const whole = <const K extends string>(
  key: K,
  value: number,
  label: string,
  traits: OptionTraits & { readonly minimum?: number } = {},
) => option({ key, schema: Type.Integer({ minimum: traits.minimum ?? 0 }), default: value, label, ...traits })

/** A decimal number, at least 0. */
export const decimalNumber = <const K extends string>(
  key: K,
  value: number,
  label: string,
  traits: OptionTraits = {},
) => option({ key, schema: Type.Number({ minimum: 0 }), default: value, label, ...traits })

export const json = <const K extends string, S extends TSchema>(
  key: K,
  schema: S,
  value: Static<S>,
  label: string,
  traits: OptionTraits = {},
) => option({ key, schema, default: value, label, ...traits })

/** Keys that hold credentials by their ending, known to us or not. */
export const hasSecretEnding = (key: string): boolean => /(?:Token|Secret|Key|secret|api_key)$/.test(key)

function readText(key: string, schema: TSchema, stored: string): Reading {
  const type: unknown = schema['type']
  if (type === 'boolean') return readFlag(key, stored)
  if (type === 'number' || type === 'integer') return readNumber(schema, stored)
  if (type === 'string' || isChoice(schema)) {
    return Value.Check(schema, stored) ? { value: stored, problem: undefined } : unread(describe(schema, stored))
  }
  return readJson(schema, stored)
}

const unread = (problem: string): Reading => ({ value: undefined, problem })

/** A union of literal words. */
const isChoice = (schema: TSchema): boolean =>
  Array.isArray(schema['anyOf']) && schema['anyOf'].every((part: { const?: unknown }) => typeof part.const === 'string')

/** Undotted keys know only the exact word `true`; dotted keys take the usual spellings. */
function readFlag(key: string, stored: string): Reading {
  if (!key.includes('.')) {
    const problem = stored === 'true' || stored === 'false' ? undefined : 'must be true or false'
    return { value: stored === 'true', problem }
  }
  if (['1', 't', 'T', 'true', 'TRUE', 'True'].includes(stored)) return { value: true, problem: undefined }
  if (['0', 'f', 'F', 'false', 'FALSE', 'False'].includes(stored)) return { value: false, problem: undefined }
  return unread('must be true or false')
}

function readNumber(schema: TSchema, stored: string): Reading {
  const trimmed = stored.trim()
  const value = /^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$/.test(trimmed) ? Number(trimmed) : undefined
  if (value === undefined) return unread('must be a number')
  return Value.Check(schema, value) ? { value, problem: undefined } : unread(describe(schema, value))
}

/**
 * An empty text is the default. Of a map with some entries of the wrong type the others are kept: losing every price because
 * one of them is a string would put all models at built-in prices.
 */
function readJson(schema: TSchema, stored: string): Reading {
  if (stored.trim() === '') return { value: undefined, problem: undefined }
  let value: unknown
  try {
    value = JSON.parse(stored)
  } catch (cause) {
    return unread(`must be JSON (${cause instanceof Error ? cause.message : 'unreadable'})`)
  }
  if (Value.Check(schema, value)) return { value: frozen(value), problem: undefined }
  const problem = describe(schema, value)
  const [entrySchema] = Object.values<TSchema>(schema['patternProperties'] ?? {})
  if (!entrySchema || !isPlainObject(value)) return unread(problem)
  const sound = Object.entries(value).filter(([, entry]) => Value.Check(entrySchema, entry))
  return { value: frozen(Object.fromEntries(sound)), problem }
}

/** The first thing that is wrong, with the place where it is. */
function describe(schema: TSchema, value: unknown): string {
  const first = Value.Errors(schema, value).First()
  if (!first) return 'is not of the expected form'
  return first.path ? `${first.path.slice(1).replaceAll('/', '.')}: ${first.message}` : first.message
}

const isPlainObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/**
 * Deep-frozen copy without prototypes: maps are looked up with names that clients choose, and `constructor` or `__proto__`
 * must not find anything.
 */
function frozen(value: unknown): unknown {
  if (Array.isArray(value)) return Object.freeze(value.map(frozen))
  if (!isPlainObject(value)) return value
  const copy: Record<string, unknown> = Object.create(null)
  for (const [name, entry] of Object.entries(value)) copy[name] = frozen(entry)
  return Object.freeze(copy)
}
