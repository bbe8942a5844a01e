/** Opens the log of one process of a node: standard output, and files if a folder is configured. */
import type { Config } from '../config.ts'
import { createLog, type LogLevel, type LogSink, type OpenLog } from '../lib/log.ts'
import { createStreamSink, openFileSink } from '../lib/log-sinks.ts'

const MIB = 1024 * 1024

/** @param name of the process within its node: `supervisor`, `worker0` */
export function openProcessLog(config: Config, name: string): OpenLog {
  const sinks: LogSink[] = [createStreamSink(process.stdout)]
  if (config.logDir !== '') {
    sinks.push(
      openFileSink({
        directory: config.logDir,
        name,
        maxBytes: config.logMaxMb * MIB,
        keepDays: config.logKeepDays,
        keepBytes: config.logKeepMb * MIB,
      }),
    )
  }
  // The configuration allows only these four words.
  return createLog({ level: config.logLevel as LogLevel, sinks, fields: { node: config.nodeName, process: name } })
}
