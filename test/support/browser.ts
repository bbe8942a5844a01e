/** What a browser keeps of a log-in: the access token, and the cookie that only the refresh gets. */
export interface Browser {
  /** @throws Error unless the log-in succeeds */
  login(url: string, who: { readonly username: string; readonly password: string }): Promise<void>
  /** Takes the new token and cookie. @returns the status */
  refresh(url: string): Promise<number>
  /** Asks who is logged in. @returns the status */
  self(url: string): Promise<number>
  logout(url: string): Promise<number>
  /** The cookie's value, '' when it was taken away. */
  cookie(): string
}

const COOKIE = 'new_api_refresh'

export function createBrowser(): Browser {
  let token = ''
  let cookie = ''

  const post = async (url: string, path: string, body?: unknown): Promise<Response> => {
    const reply = await fetch(`${url}/api/user${path}`, {
      method: 'POST',
      headers: {
        ...(cookie !== '' && { cookie: `${COOKIE}=${cookie}` }),
        ...(body !== undefined && { 'content-type': 'application/json' }),
      },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    })
    const set = new RegExp(`^${COOKIE}=([^;]*)`).exec(reply.headers.get('set-cookie') ?? '')
    if (set) cookie = set[1] ?? ''
    return reply
  }
  const take = async (reply: Response): Promise<boolean> => {
    const { data } = (await reply.json()) as { data?: { access_token?: string } }
    if (data?.access_token) token = data.access_token
    return data?.access_token !== undefined
  }

  return {
    async login(url, { username, password }) {
      const reply = await post(url, '/login', { username, password })
      if (!(await take(reply))) throw new Error(`the log-in failed: ${reply.status}`)
    },
    async refresh(url) {
      const reply = await post(url, '/auth/refresh')
      await take(reply)
      return reply.status
    },
    async self(url) {
      const reply = await fetch(`${url}/api/user/self`, { headers: { authorization: `Bearer ${token}` } })
      await reply.arrayBuffer()
      return reply.status
    },
    async logout(url) {
      const reply = await post(url, '/auth/logout')
      await reply.arrayBuffer()
      return reply.status
    },
    cookie: () => cookie,
  }
}
