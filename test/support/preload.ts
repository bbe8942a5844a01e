/** Runs before every test file: at the end of the run servers are stopped, and what was left open fails the run. */
import { afterAll, setDefaultTimeout } from 'bun:test'
import { stopServices } from './services.ts'

// A hang must end; a slow machine is no failure.
setDefaultTimeout(30_000)

afterAll(stopServices, 60_000)
