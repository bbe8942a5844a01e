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

export class Tally {
  readonly #model: string
  readonly #inputTokens: number
  readonly #isTextCounted: boolean
  readonly #mapUsage: ((usage: Usage) => Usage) | undefined
  /** Made when there is something to count: a whole answer with reported usage has nothing. */
  #counter: TokenCounter | undefined
  #toolCalls = 0
  #chars = 0
  #countedAtChars = 0
  #counted = 0
  #early: Usage | undefined
  #final: Usage | undefined

  constructor(options: {
    readonly model: string
    /** Counted from the request. */
    readonly inputTokens: number
    /** False counts nothing: only what upstreams report is billed (`CountToken`). */
    readonly isTextCounted: boolean
    readonly mapUsage?: ((usage: Usage) => Usage) | undefined
  }) {
    this.#model = options.model
    this.#inputTokens = options.inputTokens
    this.#isTextCounted = options.isTextCounted
    this.#mapUsage = options.mapUsage
  }

  see(event: StreamEvent): void {
    switch (event.type) {
      case 'block-delta':
        this.#count(producedBy(event))
        break
      case 'block-start':
        if (event.block.type !== 'tool-call') break
        this.#toolCalls++
        this.#count(producedBy(event))
        break
      case 'start':
        if (event.usage) this.#early = event.usage
        break
      case 'usage':
        this.#final = event.usage
    }
  }
  seeUsage(usage: Usage): void {
    this.#final = usage
  }
  seeWhole(response: ChatResponse): void {
    this.#final = response.usage
    if (this.#final) return
    const produced = producedIn(response)
    this.#toolCalls += produced.toolCalls
    this.#count(produced.text)
  }

  /** Output tokens counted so far; cheap enough for each chunk. */
  outputTokens(): number {
    if (this.#countedAtChars !== this.#chars) {
      this.#countedAtChars = this.#chars
      this.#counted = this.#counter?.total() ?? 0
    }
    return this.#isTextCounted ? this.#counted + this.#toolCalls * TOKENS_PER_TOOL_CALL : 0
  }
  /** Our count, when the upstream reported nothing; for the client's usage. */
  unreported(): Usage | undefined {
    return this.#final ? undefined : this.#counting()
  }
  /** @param isWhole the answer ended properly, so that what was reported is final */
  bill(isWhole: boolean): { readonly usage: Usage; readonly isCounted: boolean } {
    if (this.#final && isWhole) return { usage: this.#mapped(this.#final), isCounted: false }
    const reported = this.#final ?? this.#early
    if (!reported) return { usage: this.#counting(), isCounted: true }
    const mapped = this.#mapped(reported)
    // The input was reported; of the output only the part until then was.
    return { usage: { ...mapped, outputTokens: Math.max(mapped.outputTokens, this.outputTokens()) }, isCounted: true }
  }

  #count(text: string): void {
    this.#chars += text.length
    if (!this.#isTextCounted) return
    this.#counter ??= createTokenCounter(this.#model)
    this.#counter.add(text)
  }
  #counting(): Usage {
    return { ...NOTHING, inputTokens: this.#inputTokens, outputTokens: this.outputTokens() }
  }
  #mapped(usage: Usage): Usage {
    return this.#mapUsage ? this.#mapUsage(usage) : usage
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
