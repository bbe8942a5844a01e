/**
 * Counts what one attempt produced, from the same events in all three ways of carrying a call, and says what is billed.
 *
 * The policy: a complete call is billed by what the upstream reported, or by our count where it reported nothing. When the
 * client leaves, the upstream is aborted and what was produced until then is billed (a call that was not streamed: its
 * counted input); a channel set to drain runs to the end and bills in full. An upstream that fails before the first byte
 * costs nothing; after it, what was delivered is billed.
 */
import { createTokenCounter, type TokenCounter } from '../domain/billing/index.ts'
import { type ChatResponse, producedBy, producedIn, type StreamEvent, type Usage } from '../protocol/index.ts'

/** What the counting of calls of tools adds when the upstream reported nothing. */
const TOKENS_PER_TOOL_CALL = 7

export interface Tally {
  see(event: StreamEvent): void
  seeWhole(response: ChatResponse): void
  /** Output tokens counted so far; cheap enough for each chunk. */
  outputTokens(): number
  /** Our count, when the upstream reported nothing; for the client's usage. */
  unreported(): Usage | undefined
  /** @param isWhole the answer ended properly, so that what was reported is final */
  bill(isWhole: boolean): { readonly usage: Usage; readonly isCounted: boolean }
}

export function createTally(options: {
  readonly model: string
  /** Counted from the request. */
  readonly inputTokens: number
  /** False counts nothing: only what upstreams report is billed (`CountToken`). */
  readonly isTextCounted: boolean
  readonly mapUsage?: ((usage: Usage) => Usage) | undefined
}): Tally {
  const { model, inputTokens, isTextCounted, mapUsage = (usage) => usage } = options
  // Made when there is something to count: a whole answer with reported usage has nothing.
  let counter: TokenCounter | undefined
  let toolCalls = 0
  let chars = 0
  let countedAtChars = 0
  let counted = 0
  let early: Usage | undefined
  let final: Usage | undefined

  const count = (text: string): void => {
    chars += text.length
    if (!isTextCounted) return
    counter ??= createTokenCounter(model)
    counter.add(text)
  }
  const outputTokens = (): number => {
    if (countedAtChars !== chars) {
      countedAtChars = chars
      counted = counter?.total() ?? 0
    }
    return isTextCounted ? counted + toolCalls * TOKENS_PER_TOOL_CALL : 0
  }
  const counting = (): Usage => ({ ...NOTHING, inputTokens, outputTokens: outputTokens() })
  return {
    see(event) {
      switch (event.type) {
        case 'block-delta':
          count(producedBy(event))
          break
        case 'block-start':
          if (event.block.type !== 'tool-call') break
          toolCalls++
          count(producedBy(event))
          break
        case 'start':
          if (event.usage) early = event.usage
          break
        case 'usage':
          final = event.usage
      }
    },
    seeWhole(response) {
      final = response.usage
      if (final) return
      const produced = producedIn(response)
      toolCalls += produced.toolCalls
      count(produced.text)
    },
    outputTokens,
    unreported: () => (final ? undefined : counting()),
    bill(isWhole) {
      if (final && isWhole) return { usage: mapUsage(final), isCounted: false }
      const reported = final ?? early
      const output = outputTokens()
      if (!reported) return { usage: counting(), isCounted: true }
      const mapped = mapUsage(reported)
      // The input was reported; of the output only the part until then was.
      return { usage: { ...mapped, outputTokens: Math.max(mapped.outputTokens, output) }, isCounted: true }
    },
  }
}

const NOTHING: Usage = {
  inputTokens: 0,
  outputTokens: 0,
  cacheReadTokens: 0,
  cacheWriteTokens: 0,
  cacheWrite5mTokens: 0,
  cacheWrite1hTokens: 0,
  reasoningTokens: 0,
  imageInputTokens: 0,
  audioInputTokens: 0,
  audioOutputTokens: 0,
  semantic: 'openai',
}
