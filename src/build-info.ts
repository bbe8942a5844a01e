/** What is stamped into a built binary; from source, the version of package.json and no commit. */
import packageJson from '../package.json'

// Replaced by the build (`define`), so the names must stay as they are.
declare const HEADGATE_VERSION: string | undefined
declare const HEADGATE_COMMIT: string | undefined

export const VERSION: string = typeof HEADGATE_VERSION === 'string' ? HEADGATE_VERSION : packageJson.version
export const COMMIT: string = typeof HEADGATE_COMMIT === 'string' ? HEADGATE_COMMIT : 'source'
/** Whether this program is an executable of its own, and not Bun with a file. */
export const IS_BUILT: boolean = typeof HEADGATE_COMMIT === 'string'
