/** The scripted upstream as a process of its own, so that it neither shares a processor's time slice nor dies with a node. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { eventually } from './eventually.ts'
import { spawnTied } from './services.ts'
import { type LedgerLine, readLedgerFile } from './upstream.ts'

export interface UpstreamProcess {
  readonly url: string
  readonly process: Bun.Subprocess
  /** Its own ledger so far. */
  ledger(): readonly LedgerLine[]
  stop(): Promise<void>
}

/** @param folder where its ledger and what it prints go */
export async function startUpstreamProcess(folder: string): Promise<UpstreamProcess> {
  const ledgerFile = join(folder, 'upstream.jsonl')
  const outputPath = join(folder, 'upstream')
  const program = join(import.meta.dir, 'upstream.ts')
  const child = spawnTied(
    [process.execPath, '--no-env-file', program, '--port', '0', '--ledger', ledgerFile],
    outputPath,
  )
  const url = await eventually('the upstream listens', async () => (await readFile(outputPath, 'utf8')).trim(), {
    withinMs: 20_000,
  })
  return {
    url,
    process: child,
    ledger: () => readLedgerFile(ledgerFile),
    async stop() {
      child.kill('SIGTERM')
      await child.exited
    },
  }
}
