/** What a node costs that nobody uses: memory that is resident, and CPU time; set up, with keys and a channel. */
import { openGateway } from './gateway.ts'
import { cpuOf, residentOf, residentTogether } from './processes.ts'
import type { Rig } from './rig.ts'
import type { Row } from './table.ts'

const KEYS = 20
const AIM_MB = 120

/** @param sizes.seconds how long nothing is done: CPU time is exact to 10 ms */
export async function measureIdle(
  rig: Rig,
  sizes: { readonly rounds: number; readonly seconds: number },
): Promise<readonly Row[]> {
  const supervisor: number[] = []
  const worker: number[] = []
  const both: number[] = []
  const together: number[] = []
  const cpu: number[] = []
  const bare: number[] = []
  for (let round = 0; round < sizes.rounds; round++) {
    const reference = await rig.startReference()
    try {
      const { url, supervisorPid, workerPid, close } = await openGateway({
        folder: rig.folder,
        engine: 'sqlite',
        upstreamUrl: rig.mock.url,
        keysPerUser: KEYS,
      })
      try {
        const before = await cpuOf(supervisorPid)
        await Bun.sleep(sizes.seconds * 1000)
        cpu.push(((await cpuOf(supervisorPid)) - before) / 1000 / sizes.seconds)
        if (!(await fetch(`${url}/readyz`)).ok) throw new Error('the idle node is not ready')
        supervisor.push(await residentOf(supervisorPid))
        worker.push(await residentOf(workerPid))
        both.push(supervisor.at(-1)! + worker.at(-1)!)
        together.push(await residentTogether([supervisorPid, workerPid]))
        bare.push(await residentOf(reference.pid))
      } finally {
        await close()
      }
    } finally {
      await reference.stop()
    }
  }
  return [
    {
      figure: 'supervisor and one worker, added up',
      unit: 'MB',
      values: both,
      aim: { kind: 'at most', value: AIM_MB },
    },
    { figure: 'the same, shared pages once', unit: 'MB', values: together, aim: { kind: 'at most', value: AIM_MB } },
    { figure: 'worker', unit: 'MB', values: worker, reference: bare },
    { figure: 'supervisor', unit: 'MB', values: supervisor, reference: bare },
    { figure: 'both, per second', unit: 'ms CPU', values: cpu },
  ]
}
