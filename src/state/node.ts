/**
 * State shared by the workers of one node without Redis: the supervisor holds the keys (in a memory state of its own) and
 * passes messages on. This file has both ends of that protocol; who carries the messages is the caller's business.
 */
import type { Log } from '../lib/log.ts'
import { createListeners } from './listeners.ts'
import type { State } from './state.ts'

type Operation = 'get' | 'set' | 'delete' | 'add'

/** Worker to supervisor. */
export type NodeRequest =
  | {
      readonly kind: 'state'
      readonly id: number
      readonly operation: Operation
      readonly key: string
      readonly value?: string | number
      readonly ttlMs?: number
    }
  | { readonly kind: 'publish'; readonly topic: string; readonly message: string }

/** Supervisor to worker. */
export type NodeReply =
  | { readonly kind: 'answer'; readonly id: number; readonly value?: string | number; readonly error?: string }
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
  const waiting = new Map<number, PromiseWithResolvers<string | number | undefined>>()
  let lastId = 0

  const ask = (
    operation: Operation,
    key: string,
    value?: string | number,
    ttlMs?: number,
  ): Promise<string | number | undefined> => {
    const id = ++lastId
    const answer = Promise.withResolvers<string | number | undefined>()
    waiting.set(id, answer)
    send({ kind: 'state', id, operation, key, value, ttlMs })
    return answer.promise
  }
  return {
    kind: 'node',
    get: async (key) => {
      const value = await ask('get', key)
      return value === undefined ? undefined : String(value)
    },
    set: async (key, value, ttlMs) => void (await ask('set', key, value, ttlMs)),
    delete: async (key) => void (await ask('delete', key)),
    add: async (key, n, ttlMs) => Number(await ask('add', key, n, ttlMs)),
    async publish(topic, message) {
      // Here at once, at the other workers by way of the supervisor.
      listeners.deliver(topic, message)
      send({ kind: 'publish', topic, message })
    },
    subscribe: listeners.add,
    isUp: () => true,
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
  const { id, operation, key, value, ttlMs } = request
  try {
    answer({ kind: 'answer', id, value: await perform(state, operation, key, value, ttlMs) })
  } catch (error) {
    answer({ kind: 'answer', id, error: String(error) })
  }
}

async function perform(
  state: State,
  operation: Operation,
  key: string,
  value?: string | number,
  ttlMs?: number,
): Promise<string | number | undefined> {
  if (operation === 'get') return state.get(key)
  if (operation === 'set') await state.set(key, String(value), ttlMs)
  if (operation === 'delete') await state.delete(key)
  return operation === 'add' ? state.add(key, Number(value), ttlMs ?? 0) : undefined
}
