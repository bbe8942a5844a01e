/**
 * The one place that knows the text of `channels.key`: one key, several separated by newline, or a JSON array. How that
 * text is protected in the database is `keys-at-rest.ts`.
 */
import { GatewayError } from '../../errors.ts'
import { isSealed } from '../../lib/sealed-text.ts'

/**
 * @param isMultiKey a single key may itself span lines (a service account), so only channels with several are split
 * @returns keys in their stored order: an index names a key in the status list and in logs
 * @throws GatewayError `channel_key_locked` for a text that is encrypted still
 */
export const readKeys = (text: string, isMultiKey: boolean): readonly string[] => {
  if (isSealed(text)) throw new GatewayError('channel_key_locked')
  if (!isMultiKey) return text === '' ? [] : [text]
  const array = text.trimStart().startsWith('[') ? readArray(text) : undefined
  return (
    array ??
    text
      .split('\n')
      .map((line) => line.trim())
      .filter((line) => line !== '')
  )
}

/** What is stored for these keys: of several, lines, or a JSON array when a key has lines of its own. */
export const writeKeys = (keys: readonly string[], isMultiKey: boolean): string => {
  if (!isMultiKey) return keys[0] ?? ''
  const isArray = keys.some((key) => key.includes('\n') || key.startsWith('[')) || keys.some(isJsonObject)
  return isArray ? `[${keys.map((key) => (isJsonObject(key) ? key : JSON.stringify(key))).join(',')}]` : keys.join('\n')
}

/** Elements that are objects keep their JSON as the key. */
const readArray = (text: string): string[] | undefined => {
  try {
    const array: unknown = JSON.parse(text)
    if (!Array.isArray(array)) return undefined
    return array.map((element) => (typeof element === 'string' ? element : JSON.stringify(element)))
  } catch {
    return undefined
  }
}

const isJsonObject = (text: string): boolean => {
  if (!text.startsWith('{')) return false
  try {
    return typeof JSON.parse(text) === 'object'
  } catch {
    return false
  }
}
