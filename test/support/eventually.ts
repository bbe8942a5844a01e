/** Waiting for a condition instead of sleeping. */

/**
 * @param what the guarantee that is waited for, for the failure's text
 * @param condition gives a truthy value once it holds; a throw counts as not yet
 * @param options.withinMs bound, 5,000 if not given
 * @returns what the condition gave
 */
export async function eventually<T>(
  what: string,
  condition: () => T | Promise<T>,
  options: { readonly withinMs?: number; readonly everyMs?: number } = {},
): Promise<NonNullable<T>> {
  const { withinMs = 5_000, everyMs = 10 } = options
  const endAt = performance.now() + withinMs
  let last: unknown
  for (;;) {
    try {
      last = await condition()
      if (last) return last as NonNullable<T>
    } catch (error) {
      last = error
    }
    if (performance.now() >= endAt) {
      const seen = last instanceof Error ? last.message : Bun.inspect(last)
      throw new Error(`not within ${withinMs} ms: ${what} (last seen: ${seen})`)
    }
    await Bun.sleep(everyMs)
  }
}
