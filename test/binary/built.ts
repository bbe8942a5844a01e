/** The compiled binary, built once per test process from this work tree. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export const ROOT = join(import.meta.dir, '../..')

export interface BuiltBinary {
  readonly path: string
  remove(): Promise<void>
}

export async function buildBinary(): Promise<BuiltBinary> {
  const folder = await mkdtemp(join(tmpdir(), 'headgate-build-'))
  const build = Bun.spawn([process.execPath, '--no-env-file', join(ROOT, 'scripts/build.ts'), '--outdir', folder], {
    stdout: 'ignore',
    stderr: 'pipe',
  })
  const errors = await new Response(build.stderr).text()
  if ((await build.exited) !== 0) throw new Error(`the build failed: ${errors}`)
  return { path: join(folder, 'headgate'), remove: () => rm(folder, { recursive: true, force: true }) }
}
