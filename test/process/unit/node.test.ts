/** A node is as ready as its workers are, no matter which of them is asked. */
import { expect, test } from 'bun:test'
import { joinReadiness, type WorkerReadiness } from '../../../src/node.ts'

const good: WorkerReadiness = { ready: true, missing: [], isListening: true }
const bad: WorkerReadiness = { ready: false, missing: ['database'], isListening: true }
const starting: WorkerReadiness = { ready: false, missing: ['starting'], isListening: false }

test('a node without a listening worker is starting', () => {
  expect(joinReadiness([]).ready).toBe(false)
  expect(joinReadiness([starting, starting]).ready).toBe(false)
})

test('a worker that starts again takes no connections and does not make its node unready', () => {
  expect(joinReadiness([good, starting])).toEqual({ ready: true, missing: [], dependencies: [] })
})

test('a worker that takes connections and is not ready makes its node unready, and says why once', () => {
  expect(joinReadiness([good, bad, bad])).toEqual({ ready: false, missing: ['database'], dependencies: [] })
})

test('a dependency is up for the node if it is for every worker that takes connections', () => {
  const knowing = (up: boolean) => ({ ...good, dependencies: [{ name: 'database', up }] })
  expect(joinReadiness([knowing(true), knowing(true)]).dependencies).toEqual([{ name: 'database', up: true }])
  expect(joinReadiness([knowing(true), knowing(false)])).toEqual({
    ready: true,
    missing: [],
    dependencies: [{ name: 'database', up: false }],
  })
})
