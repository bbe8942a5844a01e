/**
 * State shared by the workers of one node without Redis: the supervisor holds the keys (in a memory state of its own) and
 * passes messages on. This file has both ends of that protocol; who carries the messages is the caller's business.
 */
import type { Log } from '../lib/log.ts'
import { createListeners } from './listeners.ts'
import type { State } from './state.ts'

/** What workers ask the supervisor for, by the names of `State`. */
type Operation = 'get' | 'set' | 'delete' | 'add' | 'take' | 'correct' | 'hold' | 'release'
type Arguments = Parameters<State[Operation]>
type Answer = Awaited<ReturnType<State[Operation]>>

/** Worker to supervisor. */
export type NodeRequest =
  | { readonly kind: 'state'; readonly id: number; readonly operation: Operation; readonly args: Arguments }
  | { readonly kind: 'publish'; readonly topic: string; readonly message: string }

/** Supervisor to worker. */
export type NodeReply =
  | { readonly kind: 'answer'; readonly id: number; readonly value?: Answer; readonly error?: string }
  | { readonly kind: 'published'; readonly topic: string; readonly message: string }

export interface NodeState extends State {
  /** Takes what the supervisor sent. */
  receive(reply: NodeReply): void
}

/** The worker's end. @param send hands a message to the supervisor; a throw means that it is gone */
export function createNodeState({
  send,
  log,
}: {
  readonly send: (request: NodeRequest) => void
  readonly log: Log
}): NodeState {
  const listeners = createListeners(log)
  const waiting = new Map<number, PromiseWithResolvers<Answer>>()
  let lastId = 0

  /** One operation at the supervisor, which answers as a state of its own would. */
  const ask = <O extends Operation>(operation: O): State[O] =>
    // Safe: arguments and answer are those of the same operation at the other end.
    (async (...args: Arguments) => {
      const id = ++lastId
      const answer = Promise.withResolvers<Answer>()
      waiting.set(id, answer)
      send({ kind: 'state', id, operation, args })
      return answer.promise
    }) as State[O]
  return {
    kind: 'node',
    get: ask('get'),
    set: ask('set'),
    delete: ask('delete'),
    add: ask('add'),
    take: ask('take'),
    correct: ask('correct'),
    hold: ask('hold'),
    release: ask('release'),
    async publish(topic, message) {
      // Here at once, at the other workers by way of the supervisor.
      listeners.deliver(topic, message)
      send({ kind: 'publish', topic, message })
    },
    subscribe: listeners.add,
    isUp: () => true,
    form: () => 'node',
    async close() {
      listeners.clear()
      for (const answer of waiting.values()) answer.reject(new Error('the state of the node is closed'))
      waiting.clear()
    },
    receive(reply) {
      if (reply.kind === 'published') return listeners.deliver(reply.topic, reply.message)
      const answer = waiting.get(reply.id)
      waiting.delete(reply.id)
      if (reply.error === undefined) answer?.resolve(reply.value)
      else answer?.reject(new Error(reply.error))
    },
  }
}

/**
 * The supervisor's end for one worker's request.
 * @param answer sends to the worker that asked
 * @param broadcast sends to every other worker
 */
export async function serveNodeState(
  state: State,
  request: NodeRequest,
  answer: (reply: NodeReply) => void,
  broadcast: (reply: NodeReply) => void,
): Promise<void> {
  if (request.kind === 'publish')
    return broadcast({ kind: 'published', topic: request.topic, message: request.message })
  const { id, operation, args } = request
  try {
    // Safe: the worker's end takes the arguments of the same operation.
    const perform = state[operation] as (...args: Arguments) => Promise<Answer>
    answer({ kind: 'answer', id, value: await perform(...args) })
  } catch (error) {
    answer({ kind: 'answer', id, error: String(error) })
  }
}
