/** The supplied unit and compose file are sound, and leave a stop the time that it may take. */
import { expect, test } from 'bun:test'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { loadConfig } from '../../src/config.ts'
import { parseDsn } from '../../src/db/dsn.ts'
import { ROOT } from './built.ts'

const UNIT = join(ROOT, 'compose/systemd/headgate.service')
const config = (env: Record<string, string>) => loadConfig(env, { parseDsn, cpus: 1, canSharePort: true })

test('a stop has more time than SHUTDOWN_TIMEOUT_SECONDS, by systemd and by compose', async () => {
  const unit = await Bun.file(UNIT).text()
  const unitEnv = Object.fromEntries([...unit.matchAll(/\b([A-Z_]+)=(\S+)/g)].map((match) => [match[1], match[2]]))
  const { config: fromUnit, warnings } = config({
    DATA_DIR: unitEnv['DATA_DIR']!,
    SHUTDOWN_TIMEOUT_SECONDS: unitEnv['SHUTDOWN_TIMEOUT_SECONDS']!,
  })
  expect(warnings).toEqual([])
  expect(Number(/^TimeoutStopSec=(\d+)$/m.exec(unit)?.[1])).toBeGreaterThan(fromUnit.shutdownTimeoutSec + 10)

  const compose = Bun.YAML.parse(await Bun.file(join(ROOT, 'compose/single.yml')).text()) as {
    services: {
      headgate: {
        environment: Record<string, string>
        stop_grace_period: string
        volumes: string[]
        healthcheck: { test: string[] }
      }
    }
  }
  const { environment, stop_grace_period, volumes, healthcheck } = compose.services.headgate
  const fromCompose = config({ SHUTDOWN_TIMEOUT_SECONDS: environment['SHUTDOWN_TIMEOUT_SECONDS']! }).config
  expect(Number.parseInt(stop_grace_period, 10)).toBeGreaterThan(fromCompose.shutdownTimeoutSec + 10)
  expect(volumes.map((volume) => volume.split(':')[1])).toEqual(['/data', '/app/logs'])
  expect(healthcheck.test[1]).toContain('|| exit 1')
})

if (Bun.which('systemd-analyze')) {
  test('systemd-analyze finds no fault in the unit', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'headgate-unit-'))
    try {
      // It also looks for the program, which is installed only on a real machine.
      const path = join(folder, 'headgate.service')
      await Bun.write(path, (await Bun.file(UNIT).text()).replaceAll('/usr/local/bin/headgate', '/bin/true'))
      const verify = Bun.spawn(['systemd-analyze', 'verify', path], { stdout: 'pipe', stderr: 'pipe' })
      const said = `${await new Response(verify.stdout).text()}${await new Response(verify.stderr).text()}`
      expect({ code: await verify.exited, said }).toEqual({ code: 0, said: '' })
    } finally {
      await rm(folder, { recursive: true, force: true })
    }
  }, 30_000)
} else console.log('left out: the check of the systemd unit (needs systemd-analyze)')
