/** Statements that do not need each other's answers. */

/**
 * Begins each work in turn, within one transaction: over a network what they ask for first goes in one round trip. A work is
 * a function, so that one that throws at once leaves no other behind unheard.
 * @returns their answers, in order. @throws what the first of them threw that failed
 */
export const together = <T extends readonly (() => unknown)[]>(
  ...works: T
): Promise<{ [K in keyof T]: Awaited<ReturnType<T[K]>> }> =>
  // Safe: `Promise.all` keeps the order; its type does not know that of a mapped tuple.
  Promise.all(works.map(async (work) => work())) as Promise<{ [K in keyof T]: Awaited<ReturnType<T[K]>> }>
