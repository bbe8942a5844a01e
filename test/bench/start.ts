/** From an empty disk to the first answer: by the clock, which other work on the machine moves, and in CPU time. */
import { createNode } from '../support/node.ts'
import { cpuOf } from './processes.ts'
import type { Rig } from './rig.ts'
import type { Row } from './table.ts'

/** How long after the first answer nobody looks again: finer than what is measured, coarse enough to cost little. */
const LOOK_MS = 3

export async function measureStart(rig: Rig, sizes: { readonly rounds: number }): Promise<readonly Row[]> {
  const own = { ms: [] as number[], cpu: [] as number[] }
  const bare: number[] = []
  for (let round = 0; round < sizes.rounds; round++) {
    const bareStart = performance.now()
    const reference = await rig.startReference()
    await fetch(reference.url, { method: 'POST', body: '{}' })
    bare.push(performance.now() - bareStart)
    await reference.stop()

    const node = await createNode({ env: { LOG_LEVEL: 'info' } })
    try {
      const start = performance.now()
      node.start()
      while (!(await isReady(node.url))) await Bun.sleep(LOOK_MS)
      own.ms.push(performance.now() - start)
      own.cpu.push((await cpuOf(node.supervisorPid())) / 1000)
    } finally {
      await node.remove()
    }
  }
  return [
    {
      figure: 'empty disk to first answer',
      unit: 'ms',
      values: own.ms,
      reference: bare,
      aim: { kind: 'at most', value: 300 },
    },
    { figure: 'the same, CPU of the node', unit: 'ms CPU', values: own.cpu },
  ]
}

const isReady = (url: string): Promise<boolean> =>
  fetch(`${url}/readyz`, { keepalive: false }).then(
    (answer) => answer.ok,
    () => false,
  )
