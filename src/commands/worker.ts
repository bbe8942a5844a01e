/** One server process of a node, started by the supervisor: runs the app until it is told to stop. */

import { createApp } from '../app.ts'
import { ConfigError, EXIT_CONFIG, loadConfig } from '../config.ts'
import { parseDsn } from '../db/dsn.ts'
import { countCpus } from '../lib/cpus.ts'
import { createWorkerNode, type ToSupervisor, type ToWorker } from '../node.ts'
import { openProcessLog } from './process-log.ts'

export interface WorkerFlags {
  readonly index: number
  readonly count: number
  readonly nodeId: string
}

/** @returns the exit code, when the app has stopped */
export async function worker(flags: WorkerFlags): Promise<number> {
  // The supervisor has read `.env`, checked everything and put what it decided into the environment.
  const { config } = loadConfig(process.env, {
    parseDsn,
    cpus: await countCpus(),
    canSharePort: process.platform === 'linux',
  })
  const log = openProcessLog(config, `worker${flags.index}`)
  const stopAsked = Promise.withResolvers<number>()
  const stop = (exitCode: number): void => stopAsked.resolve(exitCode)

  // A terminal or systemd signals every process of the group; the supervisor alone decides when to hurry.
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => stop(0))
  // Without its supervisor a worker would hold the port against the next start.
  process.on('disconnect', () => process.exit(1))
  process.on('unhandledRejection', (error) => log.error('a promise failed and nobody looked', { error }))
  process.on('uncaughtException', (error) => {
    log.error('an error was not caught; this worker drains and ends', { error })
    stop(1)
  })

  const node = createWorkerNode({
    workerIndex: flags.index,
    workerCount: flags.count,
    nodeId: flags.nodeId,
    log,
    send: (message: ToSupervisor) => void process.send?.(message),
    onMessage: (receive) => process.on('message', (message) => receive(message as ToWorker)),
    onStop: () => stop(0),
  })
  const app = createApp({ config, log, node })
  const stopMs = config.shutdownTimeoutSec * 1000
  try {
    const outcome = await Promise.race([app.start(), stopAsked.promise])
    const exitCode = outcome ?? (await stopAsked.promise)
    await app.stop(stopMs)
    return exitCode
  } catch (error) {
    // What is wrong with the configuration is no fault of the program: no stack.
    log.error('the start failed', { error: error instanceof ConfigError ? error.message : error })
    await app.stop(stopMs)
    return error instanceof ConfigError ? EXIT_CONFIG : 1
  } finally {
    await log.close()
  }
}
