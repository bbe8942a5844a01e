/** Runs the README's lines for the first call, as a person would paste them, with only the two ports replaced. */
import { join } from 'node:path'
import { bareEnvironment } from '../process/started-node.ts'
import { ROOT } from './built.ts'

/** @returns what each curl printed, in order */
export async function runFirstCall(ports: { readonly gateway: number; readonly upstream: number }): Promise<string> {
  const readme = await Bun.file(join(ROOT, 'README.md')).text()
  const block = /<!-- first call -->\s*```sh\n([\s\S]*?)```\s*<!-- \/first call -->/.exec(readme)?.[1]
  if (!block) throw new Error('the README has no block of lines for the first call')
  const lines = block
    .replace('localhost:3000', `localhost:${ports.gateway}`)
    .replace('localhost:9100', `localhost:${ports.upstream}`)
  const shell = Bun.spawn(['sh', '-c', lines], { env: bareEnvironment(), stdout: 'pipe', stderr: 'pipe' })
  const [printed, errors] = await Promise.all([new Response(shell.stdout).text(), new Response(shell.stderr).text()])
  if ((await shell.exited) !== 0) throw new Error(`the lines failed: ${printed} ${errors}`)
  return printed
}
