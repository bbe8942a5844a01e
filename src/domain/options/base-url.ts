/** The public address of this installation, as links in pages, mails and notices begin. */
import type { Options } from './options.ts'

/**
 * @param frontendBaseUrl `FRONTEND_BASE_URL`, which every node of a cluster has, before what root typed in
 * @returns a function that gives the address of now, without a slash at its end; '' while nobody has told it
 */
export const createBaseUrl = (frontendBaseUrl: string, options: Pick<Options, 'get'>) => (): string =>
  (frontendBaseUrl || options.get('ServerAddress')).replace(/\/+$/, '')
