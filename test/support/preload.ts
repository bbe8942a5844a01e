/** Runs before every test file: at the end of the run servers are stopped, and what was left open fails the run. */
import { afterAll } from 'bun:test'
import { stopServices } from './services.ts'

afterAll(stopServices, 60_000)
