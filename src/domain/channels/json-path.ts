/**
 * Dotted paths into JSON, as operators write them in parameter overrides: `a.0.b`, `a.-1` for the last element, `*` for
 * all elements, `\.` for a dot inside a name. Reading never throws; writing throws `PathError` when the way is barred.
 */
import { isRecord } from './channel.ts'

export type Path = readonly string[]

/** The path names something that cannot be reached or written. */
export class PathError extends Error {}

/** @throws PathError on a name that would reach JavaScript's own machinery instead of the document */
export const parsePath = (text: string): Path => {
  const path = text.match(/(?:\\.|[^.\\])+/g)?.map((part) => part.replace(/\\(.)/g, '$1')) ?? []
  if (path.includes('__proto__')) throw new PathError(`the path ${text} is not allowed`)
  return path
}

/** Position of an element, or undefined when the name is no index of this array. */
const indexOf = (array: readonly unknown[], name: string): number | undefined => {
  if (!/^-?\d+$/.test(name)) return undefined
  const index = Number(name)
  return index < 0 ? array.length + index : index
}

const child = (value: unknown, name: string): { readonly value: unknown } | undefined => {
  if (Array.isArray(value)) {
    const index = indexOf(value, name)
    return index !== undefined && index >= 0 && index < value.length ? { value: value[index] } : undefined
  }
  return isRecord(value) && Object.hasOwn(value, name) ? { value: value[name] } : undefined
}

/** @returns the value in a box, so that a stored null differs from nothing */
export const readPath = (root: unknown, path: Path): { readonly value: unknown } | undefined => {
  let found: { readonly value: unknown } | undefined = { value: root }
  for (const name of path) {
    found = child(found.value, name)
    if (!found) return undefined
  }
  return found
}

/** Replaces each `*` by the elements that are there, the last one first, so that deleting one does not move the others. */
export const expandPath = (root: unknown, path: Path): readonly Path[] => {
  const star = path.indexOf('*')
  if (star === -1) return [path]
  const head = path.slice(0, star)
  const rest = path.slice(star + 1)
  const container = readPath(root, head)?.value
  const names = Array.isArray(container) || isRecord(container) ? Object.keys(container).reverse() : []
  return names.flatMap((name) => expandPath(root, [...head, name, ...rest]))
}

/** Writes in place and makes the objects on the way that are missing. */
export const writePath = (root: Record<string, unknown>, path: Path, value: unknown): void => {
  const name = path.at(-1)
  if (name === undefined) throw new PathError('the path is empty')
  let container: unknown = root
  for (const step of path.slice(0, -1)) {
    const next = child(container, step)
    if (next && typeof next.value === 'object' && next.value !== null) container = next.value
    else if (next && next.value !== null) throw new PathError(`${step} holds a plain value`)
    else {
      const made: Record<string, unknown> = {}
      assign(container, step, made)
      container = made
    }
  }
  assign(container, name, value)
}

const assign = (container: unknown, name: string, value: unknown): void => {
  if (!Array.isArray(container)) {
    if (isRecord(container)) container[name] = value
    return
  }
  const index = indexOf(container, name)
  // One past the end appends; a gap would put holes into the document.
  if (index === undefined || index < 0 || index > container.length)
    throw new PathError(`${name} is no element of the array`)
  container[index] = value
}

/** Removes in place; what is not there is no error. */
export const deletePath = (root: unknown, path: Path): void => {
  const container = readPath(root, path.slice(0, -1))?.value
  const name = path.at(-1)
  if (name === undefined || !child(container, name)) return
  if (Array.isArray(container)) container.splice(indexOf(container, name) ?? 0, 1)
  else if (isRecord(container)) delete container[name]
}
