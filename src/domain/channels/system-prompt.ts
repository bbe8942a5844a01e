/** The system prompt of a channel, put into the client's body in the client's dialect. */
import type { Protocol } from '../../protocol/ir.ts'
import type { ChannelSetting } from './channel.ts'

type Json = Record<string, unknown>
type Message = { readonly role?: unknown; readonly content?: unknown }

/**
 * @param model name sent upstream: OpenAI's reasoning models call the role `developer`
 * @returns the body with the prompt; undefined when nothing changes, so that the bytes can be forwarded
 */
export const applySystemPrompt = (
  json: Json,
  protocol: Protocol,
  model: string,
  setting: ChannelSetting,
): Json | undefined => {
  const prompt = setting.system_prompt ?? ''
  if (prompt === '') return undefined
  const isOverriding = setting.system_prompt_override === true
  return protocol === 'claude' ? intoClaude(json, prompt, isOverriding) : intoChat(json, prompt, isOverriding, model)
}

const intoClaude = (json: Json, prompt: string, isOverriding: boolean): Json | undefined => {
  const { system } = json
  if (isEmpty(system)) return { ...json, system: prompt }
  return isOverriding ? { ...json, system: prepend(prompt, system) } : undefined
}

const intoChat = (json: Json, prompt: string, isOverriding: boolean, model: string): Json | undefined => {
  const messages: readonly Message[] = Array.isArray(json.messages) ? json.messages : []
  const at = messages.findIndex((message) => message?.role === 'system' || message?.role === 'developer')
  const existing = messages[at]
  if (!existing) return { ...json, messages: [{ role: systemRole(model), content: prompt }, ...messages] }
  if (!isOverriding) return undefined
  return { ...json, messages: messages.with(at, { ...existing, content: prepend(prompt, existing.content) }) }
}

const isEmpty = (system: unknown): boolean =>
  system === undefined || system === null || system === '' || (Array.isArray(system) && system.length === 0)

const prepend = (prompt: string, content: unknown): unknown =>
  Array.isArray(content) ? [{ type: 'text', text: prompt }, ...content] : `${prompt}\n${content ?? ''}`

const systemRole = (model: string): string =>
  /^(o1|o3|o4|gpt-5)/.test(model) && !/^o1-(mini|preview)/.test(model) ? 'developer' : 'system'
