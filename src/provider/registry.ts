/** The list of providers: one explicit line each. Everything that offers a choice of kinds reads it. */
import { anthropic } from './anthropic.ts'
import { azure } from './azure.ts'
import { CLAUDE_DEFAULTS, type ClaudeSettings } from './claude-names.ts'
import { compatible } from './compatible.ts'
import { custom } from './custom.ts'
import { deepseek } from './deepseek.ts'
import { ollama } from './ollama.ts'
import { openai } from './openai.ts'
import { openrouter } from './openrouter.ts'
import type { Provider } from './provider.ts'

export type { ClaudeSettings } from './claude-names.ts'

export interface ProviderDefaults {
  /** API version of Azure calls that name none, such as `2025-04-01-preview`. */
  readonly azureApiVersion: string
  /** Options about Claude models, read at each call; without it their defaults. */
  readonly claude?: () => ClaudeSettings
}

export interface Providers {
  readonly list: readonly Provider[]
  find(id: number): Provider | undefined
}

export const createProviders = ({ azureApiVersion, claude = () => CLAUDE_DEFAULTS }: ProviderDefaults): Providers => {
  const list: readonly Provider[] = [
    openai,
    azure(azureApiVersion),
    anthropic(claude),
    deepseek,
    openrouter(claude),
    ollama,
    custom,
    ...compatible,
  ].sort((a, b) => a.id - b.id)
  const byId = new Map(list.map((provider) => [provider.id, provider]))
  return { list, find: (id) => byId.get(id) }
}
