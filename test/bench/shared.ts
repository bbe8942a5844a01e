/**
 * What an idle node asks of the servers that all nodes share: heartbeats, leases, the bus, and looks at what has changed.
 * Together with what a call costs them it says how many nodes they carry.
 */
import mysql from 'mysql2/promise'
import { mariadb, redis } from '../support/services.ts'
import { openGateway } from './gateway.ts'
import { cpuOf } from './processes.ts'
import type { Rig } from './rig.ts'
import type { Row } from './table.ts'

/** What a start leaves to be done. */
const SETTLE_MS = 5_000

/** @param sizes.seconds of each of the two measurements in a round: CPU time is exact to 10 ms */
export async function measureShared(
  rig: Rig,
  sizes: { readonly rounds: number; readonly seconds: number },
): Promise<readonly Row[]> {
  const [database, bus] = [await mariadb(), await redis()]
  const connection = await mysql.createConnection({ socketPath: database.socketPath, user: 'root' })
  const statementsSoFar = async (): Promise<number> => {
    const [rows] = await connection.query<mysql.RowDataPacket[]>("show global status like 'Questions'")
    return Number(rows[0]?.['Value'])
  }
  const used = async () => ({
    database: (await cpuOf(database.process.pid)) / 1000,
    bus: (await cpuOf(bus.process.pid)) / 1000,
    statements: await statementsSoFar(),
  })
  /** Per second, of the servers as a whole. */
  const perSecond = async () => {
    const start = await used()
    await Bun.sleep(sizes.seconds * 1000)
    const end = await used()
    const rate = (name: keyof typeof start): number => (end[name] - start[name]) / sizes.seconds
    return { database: rate('database'), bus: rate('bus'), statements: rate('statements') }
  }
  const databaseMs: number[] = []
  const busMs: number[] = []
  const statements: number[] = []
  try {
    for (let round = 0; round < sizes.rounds; round++) {
      const alone = await perSecond()
      const gateway = await openGateway({ folder: rig.folder, engine: 'cluster', upstreamUrl: rig.mock.url })
      try {
        await Bun.sleep(SETTLE_MS)
        const beside = await perSecond()
        databaseMs.push(beside.database - alone.database)
        busMs.push(beside.bus - alone.bus)
        statements.push(beside.statements - alone.statements)
      } finally {
        await gateway.close()
      }
    }
  } finally {
    await connection.end()
  }
  return [
    { figure: 'an idle node with one worker: MariaDB, per second', unit: 'ms CPU', values: databaseMs },
    { figure: 'the same: statements, per second', unit: '', values: statements },
    { figure: 'the same: Redis, per second', unit: 'ms CPU', values: busMs },
  ]
}
