/** Keeps one thing open: opens it, looks after it, and opens it again when it broke, for as long as it takes. */

export interface KeptOpen<T> {
  /** What is open and works, as far as one knows. */
  current(): T | undefined
  /** Says that it does not: it is closed and opened again. Of no effect for what is not current any more. */
  broke(thing: T, error: unknown): void
  /** Ends it for good. */
  close(): void
}

export interface KeepOpenOptions<T> {
  /** @param onEnd call it when what is being opened, or is open, ends by itself */
  open(onEnd: (error: unknown) => void): Promise<T>
  close(thing: T): void
  /** Is called every `probeEveryMs` while it is open; a rejection means that it is broken. It must settle by itself. */
  probe(thing: T): Promise<void>
  onUp?(thing: T): void
  /** After each loss, and each vain attempt. */
  onDown?(error: unknown): void
  readonly probeEveryMs: number
  /** The first attempt after a loss is made at once, the next ones after this long, doubling up to the other. */
  readonly retryMinMs: number
  readonly retryMaxMs: number
}

export function keepOpen<T>(options: KeepOpenOptions<T>): KeptOpen<T> {
  const { open, close, probe, onUp, onDown, probeEveryMs, retryMinMs, retryMaxMs } = options
  let current: { readonly thing: T } | undefined
  let isClosed = false
  /** Losses since it was last open for a whole period between two looks. */
  let losses = 0
  let timer: ReturnType<typeof setTimeout> | undefined

  const begin = async (): Promise<void> => {
    let opened: { readonly thing: T } | undefined
    let early: { readonly error: unknown } | undefined
    const onEnd = (error: unknown): void => {
      if (opened && opened === current) lose(error)
      else early ??= { error }
    }
    try {
      const thing = await open(onEnd)
      if (isClosed) return close(thing)
      if (!early) {
        opened = { thing }
        current = opened
        onUp?.(thing)
        look()
        return
      }
      close(thing)
      failed(early.error)
    } catch (error) {
      failed(error)
    }
  }
  const look = (): void => {
    const looked = current
    timer = setTimeout(async () => {
      if (!looked || looked !== current) return
      try {
        await probe(looked.thing)
        if (looked !== current) return
        losses = 0
        look()
      } catch (error) {
        if (looked === current) lose(error)
      }
    }, probeEveryMs)
  }
  const lose = (error: unknown): void => {
    const lost = current
    current = undefined
    clearTimeout(timer)
    if (lost) close(lost.thing)
    failed(error)
  }
  const failed = (error: unknown): void => {
    if (isClosed) return
    // With some chance in it, so that the nodes of a cluster do not all come at the same moment.
    const delayMs = losses === 0 ? 0 : Math.min(retryMinMs * 2 ** (losses - 1), retryMaxMs) * (0.5 + Math.random() / 2)
    losses++
    timer = setTimeout(begin, delayMs)
    onDown?.(error)
  }

  void begin()
  return {
    current: () => current?.thing,
    broke(thing, error) {
      if (current && current.thing === thing) lose(error)
    },
    close() {
      isClosed = true
      clearTimeout(timer)
      const last = current
      current = undefined
      if (last) close(last.thing)
    },
  }
}
