/**
 * Starts the server processes of a node, restarts one that dies, and joins them: readiness, bus, in-memory state. It waits
 * for the disk in their place. It serves no calls itself and holds nothing of value; when it dies, its workers end.
 */
import type { Subprocess } from 'bun'
import { EXIT_CONFIG } from './config.ts'
import type { Clock } from './lib/clock.ts'
import type { Log } from './lib/log.ts'
import { checkpointFile, type OpenFile } from './lib/wal.ts'
import { joinReadiness, type ToSupervisor, type ToWorker, type WorkerReadiness } from './node.ts'
import { createMemoryState, serveNodeState } from './state/index.ts'

export interface SupervisorOptions {
  readonly workers: number
  /** Program and arguments of worker `index`. */
  readonly command: (index: number) => readonly string[]
  /** The workers' whole environment. */
  readonly env: Readonly<Record<string, string | undefined>>
  /** What a worker may take to drain before it is killed, in milliseconds. */
  readonly stopMs: number
  readonly log: Log
  readonly clock: Clock
}

export interface Supervisor {
  /** Starts the workers. Resolves with the process's exit code when the last one has ended for good; never rejects. */
  run(): Promise<number>
  /** Lets every worker drain and end; a second call kills them at once. */
  stop(reason: string): void
}

/** Outgoing requests that a worker may have open at once. Bun reads this when a process starts, caps it at 256 without, and takes no more than this. */
const MAX_HTTP_REQUESTS = '65535'

const FIRST_DELAY_MS = 100
const MAX_DELAY_MS = 30_000
/** A worker that lived this long starts again without delay, whatever went before. */
const SETTLED_MS = 10_000

/** Signals that come within this time of the first are its echo. */
const ECHO_MS = 100

interface Slot {
  readonly index: number
  process?: Subprocess
  readiness?: WorkerReadiness
  startedAtMs: number
  delayMs: number
  retry?: ReturnType<typeof setTimeout>
}

export function createSupervisor(options: SupervisorOptions): Supervisor {
  const { workers, command, env, stopMs, log, clock } = options
  const state = createMemoryState({ clock, log })
  const slots: Slot[] = Array.from({ length: workers }, (_, index) => ({
    index,
    startedAtMs: 0,
    delayMs: FIRST_DELAY_MS,
  }))
  const ended = Promise.withResolvers<number>()
  let hasListened = false
  let isStopping = false
  let stoppingAtMs = 0
  let exitCode = 0
  let deadline: ReturnType<typeof setTimeout> | undefined

  const send = (slot: Slot, message: ToWorker): void => {
    try {
      slot.process?.send(message)
    } catch {
      // It is just ending; its exit is what counts.
    }
  }
  const shareReadiness = (): void => {
    const joined = joinReadiness(slots.flatMap((slot) => slot.readiness ?? []))
    for (const slot of slots) send(slot, { kind: 'readiness', joined })
  }
  const isCheckpointed = (file: OpenFile): boolean => {
    try {
      checkpointFile(file)
      return true
    } catch (error) {
      log.warn('a file could not be checkpointed; it is tried again', { file: file.path, error })
      return false
    }
  }
  const receive = (slot: Slot, message: ToSupervisor): void => {
    if (message.kind === 'checkpoint') {
      send(slot, { kind: 'checkpointed', id: message.id, isDone: isCheckpointed(message.file) })
      return
    }
    if (message.kind !== 'readiness') {
      const others = slots.filter((other) => other !== slot)
      void serveNodeState(
        state,
        message,
        (reply) => send(slot, reply),
        (reply) => {
          for (const other of others) send(other, reply)
        },
      )
      return
    }
    slot.readiness = message.own
    if (message.own.isListening && !hasListened) {
      hasListened = true
      // The first one has shown that configuration and database are good, and has synced the schema.
      slots.slice(1).forEach(start)
    }
    shareReadiness()
  }

  const start = (slot: Slot): void => {
    if (isStopping) return
    slot.startedAtMs = clock.monotonic()
    try {
      slot.process = Bun.spawn([...command(slot.index)], {
        // The kernel kills an orphan even while it computes; the closed channel ends it on other systems.
        env: { ...env, BUN_CONFIG_MAX_HTTP_REQUESTS: MAX_HTTP_REQUESTS, BUN_FEATURE_FLAG_NO_ORPHANS: '1' },
        stdio: ['ignore', 'inherit', 'inherit'],
        ipc: (message) => receive(slot, message as ToSupervisor),
        onExit: (_process, code, signal) => onExit(slot, code, signal),
      })
    } catch (error) {
      log.error('a worker cannot be started', { worker: slot.index, error })
      retryLater(slot)
    }
  }
  const onExit = (slot: Slot, code: number | null, signal: Subprocess['signalCode'] | number): void => {
    slot.process = undefined
    slot.readiness = undefined
    if (isStopping) {
      if (code !== 0) exitCode = 1
      if (slots.every((other) => !other.process)) finish()
      return
    }
    log.error('a worker ended', {
      worker: slot.index,
      exitCode: code,
      signal,
      livedMs: Math.round(clock.monotonic() - slot.startedAtMs),
    })
    if (code === EXIT_CONFIG && !hasListened) {
      exitCode = EXIT_CONFIG
      stopAll('a worker refused the configuration')
      return
    }
    shareReadiness()
    retryLater(slot)
  }
  const retryLater = (slot: Slot): void => {
    if (clock.monotonic() - slot.startedAtMs > SETTLED_MS) slot.delayMs = FIRST_DELAY_MS
    log.warn('a worker will be started again', { worker: slot.index, inMs: slot.delayMs })
    slot.retry = setTimeout(() => start(slot), slot.delayMs)
    slot.delayMs = Math.min(slot.delayMs * 2, MAX_DELAY_MS)
  }

  const stopAll = (reason: string): void => {
    isStopping = true
    stoppingAtMs = clock.monotonic()
    log.info('stopping', { reason, withinMs: stopMs })
    for (const slot of slots) {
      clearTimeout(slot.retry)
      send(slot, { kind: 'stop' })
    }
    deadline = setTimeout(() => {
      log.error('workers did not end in time and are killed', {
        workers: slots.filter((slot) => slot.process).map((slot) => slot.index),
      })
      killAll()
    }, stopMs)
    if (slots.every((slot) => !slot.process)) finish()
  }
  const killAll = (): void => {
    exitCode = exitCode || 1
    for (const slot of slots) slot.process?.kill('SIGKILL')
  }
  const finish = (): void => {
    clearTimeout(deadline)
    ended.resolve(exitCode)
  }

  return {
    run() {
      start(slots[0]!)
      return ended.promise
    },
    stop(reason) {
      // A wrapper that passes a signal on, and the group that had it too, say it twice at once.
      if (isStopping && clock.monotonic() - stoppingAtMs < ECHO_MS) return
      if (!isStopping) stopAll(reason)
      else {
        log.warn('stopping at once', { reason })
        killAll()
      }
    },
  }
}
