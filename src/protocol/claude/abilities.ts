/** What a Claude model accepts, read from its name, where generations differ and a wrong guess is refused. */

export interface Abilities {
  /** Other models behind this dialect check no signatures of thinking. */
  readonly isClaude: boolean
  /** `adaptive`: the model decides how long it thinks, `output_config.effort` guides it; else a budget is given. */
  readonly thinking: 'budget' | 'adaptive'
  readonly canStopThinking: boolean
  /** Thinking is left out of the answer unless it is asked for. */
  readonly hidesThinking: boolean
  readonly efforts: readonly string[]
  /** `output_config.format` and `strict` tools. */
  readonly hasStructuredOutput: boolean
  /** `temperature`, `top_p`, `top_k`; `one`: only one of the first two. */
  readonly sampling: 'all' | 'one' | 'none'
}

/**
 * Names without a generation that can be read are taken for the oldest form, which the other servers of this dialect speak.
 * @source https://platform.claude.com/docs/en/build-with-claude/adaptive-thinking, …/effort, …/structured-outputs and
 * https://docs.aws.amazon.com/bedrock/latest/userguide/claude-messages-adaptive-thinking.html, read 2026-11
 */
export function abilitiesOf(model: string): Abilities {
  const [, family = '', major, minor] = /claude-(?:([a-z]+)-)?(?:(\d)(?:[-.](\d{1,2})(?!\d))?)?/i.exec(model) ?? []
  const isClaude = /claude/i.test(model)
  const isAlwaysThinking = /fable|mythos/i.test(family)
  const generation = isAlwaysThinking ? 500 : Number(major ?? 0) * 100 + Number(minor ?? 0)
  const isAdaptive = generation >= 406
  const isNewest = generation >= 500 || (generation >= 407 && /opus/i.test(family))
  return {
    isClaude,
    thinking: isAdaptive ? 'adaptive' : 'budget',
    canStopThinking: !isAlwaysThinking,
    hidesThinking: isNewest,
    efforts: isNewest ? ['low', 'medium', 'high', 'xhigh', 'max'] : ['low', 'medium', 'high', 'max'],
    hasStructuredOutput: generation >= 405,
    sampling: isNewest ? 'none' : generation >= 401 ? 'one' : 'all',
  }
}
