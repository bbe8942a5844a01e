/** What takes several steps works when each step meets another node: the set-up, and a log-in from its beginning to its end. */
import { expect, test } from 'bun:test'
import { createAdminClient } from '../support/admin-client.ts'
import { createBrowser } from '../support/browser.ts'
import { SERVER_ENGINE } from '../support/engines.ts'
import { eventually } from '../support/eventually.ts'
import { withNodes } from '../support/nodes.ts'

const ROOT = { username: 'root', password: 'correct horse battery' } as const
const UNAUTHORIZED = 401

const setUp = async (url: string): Promise<boolean> => {
  const reply = await fetch(`${url}/api/setup`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ ...ROOT, confirmPassword: ROOT.password }),
  })
  return ((await reply.json()) as { success: boolean }).success
}

if (SERVER_ENGINE)
  test(
    'the set-up happens once, and a log-in made on one node is refreshed, used and ended on others',
    () =>
      withNodes(3, {}, async ({ nodes }) => {
        const [a, b, c] = nodes.map(({ url }) => url) as [string, string, string]
        const outcomes = await Promise.all([a, b, c, a, b, c].map(setUp))
        expect(outcomes.filter((isDone) => isDone).length).toBe(1)
        for (const url of [a, b, c])
          await eventually('every node knows that it is set up', async () => {
            const { data } = (await (await fetch(`${url}/api/setup`)).json()) as { data: { status: boolean } }
            return data.status
          })
        expect(await setUp(b)).toBe(false)

        const user = await createAdminClient(() => c).user(0)
        const [browser, other] = [createBrowser(), createBrowser()]
        await browser.login(a, user)
        await other.login(b, user)
        for (const url of [b, c, a]) {
          expect(await browser.self(url)).toBe(200)
          const before = browser.cookie()
          expect(await browser.refresh(url)).toBe(200)
          expect(browser.cookie()).not.toBe(before)
        }
        expect(await browser.logout(c)).toBe(200)
        expect(browser.cookie()).toBe('')
        // The access token names the session, which has ended everywhere at once.
        for (const url of [a, b, c]) {
          expect(await browser.self(url)).toBe(UNAUTHORIZED)
          expect(await browser.refresh(url)).toBe(UNAUTHORIZED)
        }
        expect(await other.self(a)).toBe(200)
        expect(await other.refresh(c)).toBe(200)
      }),
    90_000,
  )
