/**
 * What is under way, where members come and go with each call. In a `Set` of the engine that churn has a price: it begins a
 * new table every few dozen changes, and a table that has become old keeps its members, and all tables after it, until the
 * collector looks at the whole heap. So each call outlived itself; here nothing of who left stays.
 */

export interface Placed {
  /** Where it is in its bag; the bag's to write. At first -1. */
  place: number
}

export interface Bag<T extends Placed> {
  /** One that is in it stays. */
  add(member: T): void
  /** @returns whether it was in it */
  delete(member: T): boolean
  /** Members may come and leave meanwhile: who stays is met, once or more, and who comes perhaps. */
  each(call: (member: T) => void): void
  readonly size: number
}

export function createBag<T extends Placed>(): Bag<T> {
  const members: T[] = []
  return {
    add(member) {
      if (members[member.place] === member) return
      member.place = members.length
      members.push(member)
    },
    delete(member) {
      const { place } = member
      if (members[place] !== member) return false
      const last = members.pop()!
      member.place = -1
      if (last === member) return true
      last.place = place
      members[place] = last
      return true
    },
    each(call) {
      // The last takes the place of who leaves: from the end, nobody is passed by.
      for (let place = members.length - 1; place >= 0; place--) {
        const member = members[place]
        if (member) call(member)
      }
    },
    get size() {
      return members.length
    },
  }
}
