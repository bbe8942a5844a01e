/** Work for each of several, where one that fails keeps nothing from the others. */

/** Does `work` for each, one after the other, also when it fails for one. @throws the last failure */
export async function eachOf<T>(items: readonly T[], work: (item: T) => Promise<unknown>): Promise<void> {
  let failure: { readonly error: unknown } | undefined
  for (const item of items) {
    try {
      await work(item)
    } catch (error) {
      failure = { error }
    }
  }
  if (failure) throw failure.error
}
