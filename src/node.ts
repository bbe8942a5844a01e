/**
 * A worker's link with its supervisor: the node's shared state, and readiness joined over all workers, so that the node
 * answers as one no matter which worker a request meets. Without a supervisor the process is a node of one worker.
 */
import type { Clock } from './lib/clock.ts'
import type { Log } from './lib/log.ts'
import type { Checkpoint, OpenFile } from './lib/wal.ts'
import { createMemoryState, createNodeState, type NodeReply, type NodeRequest, type State } from './state/index.ts'

export interface Readiness {
  readonly ready: boolean
  /** What is missing, in words for an operator. Empty when ready. */
  readonly missing: readonly string[]
  /** What the node needs of others and of its disk. One that is away need not keep it from serving: then it is still ready. */
  readonly dependencies?: readonly ProbedDependency[]
}

/** For anybody to read, so it says no more than this. */
export interface ProbedDependency {
  readonly name: string
  readonly up: boolean
}

/** What one worker says of itself. A worker that does not listen gets no connections, so it does not count. */
export interface WorkerReadiness extends Readiness {
  readonly isListening: boolean
}

export interface NodeLink {
  /** From 0, stable over restarts of the worker. */
  readonly workerIndex: number
  readonly workerCount: number
  /** UUID kept in the data directory: the same over restarts, another for a node of the same name. */
  readonly nodeId: string
  /** Keys and bus shared by the workers of this node; use it where there is no Redis. */
  readonly state: State
  /** Has the supervisor checkpoint a file of this worker: it has the time to wait for the disk. */
  readonly checkpoint?: Checkpoint
  /** Says how this worker is; call it on each change. */
  report(own: WorkerReadiness): void
  /** How the node is: ready if a worker is and none that listens is not. */
  readiness(): Readiness
}

export type ToSupervisor =
  | NodeRequest
  | { readonly kind: 'readiness'; readonly own: WorkerReadiness }
  | { readonly kind: 'checkpoint'; readonly id: number; readonly file: OpenFile }
export type ToWorker =
  | NodeReply
  | { readonly kind: 'checkpointed'; readonly id: number; readonly isDone: boolean }
  | { readonly kind: 'readiness'; readonly joined: Readiness }
  /** Drain and exit. Beside the signal, because it works on every system. */
  | { readonly kind: 'stop' }

const STARTING: Readiness = { ready: false, missing: ['the node is starting'] }

/** Joins what workers said; pure, used by the supervisor and by a node of one worker. */
export function joinReadiness(workers: readonly WorkerReadiness[]): Readiness {
  const listening = workers.filter((worker) => worker.isListening)
  const missing = [...new Set(listening.flatMap((worker) => worker.missing))]
  if (listening.length === 0) return STARTING
  return { ready: listening.every((worker) => worker.ready), missing, dependencies: joinDependencies(listening) }
}

/** Up if it is for every worker that knows it. */
function joinDependencies(workers: readonly WorkerReadiness[]): readonly ProbedDependency[] {
  const joined = new Map<string, boolean>()
  for (const { name, up } of workers.flatMap((worker) => worker.dependencies ?? []))
    joined.set(name, up && (joined.get(name) ?? true))
  return [...joined].map(([name, up]) => ({ name, up }))
}

/** A node of one worker without a supervisor. */
export function createLoneNode({ clock, log }: { readonly clock: Clock; readonly log: Log }): NodeLink {
  let own: WorkerReadiness = { ...STARTING, isListening: false }
  return {
    workerIndex: 0,
    workerCount: 1,
    nodeId: crypto.randomUUID(),
    state: createMemoryState({ clock, log }),
    report: (next) => {
      own = next
    },
    readiness: () => joinReadiness([own]),
  }
}

/** The link over the channel that the supervisor opened when it started this process. */
export function createWorkerNode(options: {
  readonly workerIndex: number
  readonly workerCount: number
  readonly nodeId: string
  readonly log: Log
  readonly send: (message: ToSupervisor) => void
  /** Called for each message of the supervisor. */
  readonly onMessage: (receive: (message: ToWorker) => void) => void
  readonly onStop: () => void
}): NodeLink {
  const { workerIndex, workerCount, nodeId, log, send, onMessage, onStop } = options
  const state = createNodeState({ send, log })
  let joined = STARTING
  const checkpoints = new Map<number, (isDone: boolean) => void>()
  let lastId = 0
  const checkpoint: Checkpoint = (file, withinMs) => {
    const id = ++lastId
    const { promise, resolve } = Promise.withResolvers<boolean>()
    const timer = setTimeout(() => {
      log.warn('the supervisor has not checkpointed a file in time', { file: file.path, withinMs })
      resolve(false)
    }, withinMs)
    checkpoints.set(id, resolve)
    try {
      send({ kind: 'checkpoint', id, file })
    } catch {
      // The supervisor is gone, and so is this process in a moment.
      resolve(false)
    }
    return promise.finally(() => {
      clearTimeout(timer)
      checkpoints.delete(id)
    })
  }
  onMessage((message) => {
    if (message.kind === 'readiness') joined = message.joined
    else if (message.kind === 'checkpointed') checkpoints.get(message.id)?.(message.isDone)
    else if (message.kind === 'stop') onStop()
    else state.receive(message)
  })
  return {
    workerIndex,
    workerCount,
    nodeId,
    state,
    checkpoint,
    report: (own) => send({ kind: 'readiness', own }),
    readiness: () => joined,
  }
}
