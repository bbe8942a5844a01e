/** `headgate version`: what this binary is, in one line. */
import { COMMIT, VERSION } from '../build-info.ts'

export function version(): number {
  process.stdout.write(`headgate ${VERSION} (${COMMIT}, bun ${Bun.version}, ${process.platform}-${process.arch})\n`)
  return 0
}
