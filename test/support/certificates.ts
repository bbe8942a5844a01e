/** Certificates of an authority of our own, made anew for each run, in a folder of their own. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export interface Certificate {
  readonly key: string
  readonly cert: string
}

/** @returns the file of the authority, for `NODE_EXTRA_CA_CERTS`, and what it signs */
export function openAuthority() {
  const folder = mkdtempSync(join(tmpdir(), 'headgate-tls-'))
  const openssl = (...args: readonly string[]): void => {
    const { exitCode, stderr } = Bun.spawnSync(['openssl', ...args], { cwd: folder, stdin: 'ignore' })
    if (exitCode !== 0) throw new Error(`openssl: ${stderr}`)
  }
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  openssl(
    'req',
    '-x509',
    ...key,
    '-keyout',
    'ca.key',
    '-out',
    'ca.pem',
    '-days',
    '2',
    '-subj',
    '/CN=Authority of a test',
  )
  let made = 0
  return {
    file: join(folder, 'ca.pem'),
    /** @param names such as `DNS:localhost` and `IP:127.0.0.1` */
    sign(...names: readonly string[]): Certificate {
      const name = `leaf-${++made}`
      openssl('req', ...key, '-keyout', `${name}.key`, '-out', `${name}.csr`, '-subj', `/CN=${name}`)
      const extensions = join(folder, `${name}.ext`)
      writeFileSync(extensions, `subjectAltName=${names.join(',')}\n`)
      openssl(
        ...['x509', '-req', '-in', `${name}.csr`, '-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial'],
        ...['-out', `${name}.pem`, '-days', '2', '-extfile', extensions],
      )
      const read = (end: string): string => readFileSync(join(folder, `${name}.${end}`), 'utf8')
      return { key: read('key'), cert: read('pem') }
    },
    close: () => rmSync(folder, { recursive: true, force: true }),
  }
}
