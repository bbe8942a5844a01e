/**
 * Administration over HTTP only, as a person with a terminal would do it: sets a node up, makes users, keys and channels,
 * moves money, reads logs. It keeps account of what it granted, which is what the auditor wants to know in the end.
 */
import { eventually } from './eventually.ts'

export interface MadeUser {
  readonly id: number
  readonly username: string
  readonly password: string
}

export interface MadeKey {
  readonly id: number
  /** As a client sends it, with `sk-`. */
  readonly key: string
}

export interface LogRow {
  /** 2 a charge, 5 an error. */
  readonly type: number
  readonly user_id: number
  readonly content: string
  readonly model_name: string
  readonly quota: number
  readonly prompt_tokens: number
  readonly completion_tokens: number
  readonly is_stream: boolean
  readonly channel: number
  readonly token_id: number
  readonly request_id?: string
  readonly upstream_request_id?: string
  /** Parsed. */
  readonly other: Readonly<Record<string, unknown>>
}

export interface NewKey {
  readonly name?: string
  /** Quota units; absent: unlimited. */
  readonly quota?: number
  /** Wire names and values of the API, such as `model_limits`. */
  readonly fields?: Readonly<Record<string, unknown>>
}

export interface NewChannel {
  readonly name: string
  readonly baseUrl: string
  readonly models: readonly string[]
  /** Id of the provider; 1, OpenAI, if not given. */
  readonly type?: number
  readonly key?: string
  readonly modelMapping?: Readonly<Record<string, string>>
  readonly fields?: Readonly<Record<string, unknown>>
}

const ROOT = { username: 'root', password: 'correct horse battery' } as const
const PASSWORD = 'a password of tests'

export type AdminClient = ReturnType<typeof createAdminClient>

/** @param url of the node, without a path; a function for a node that comes back elsewhere */
export function createAdminClient(url: () => string) {
  const granted = new Map<string, number>()
  const sessions = new Map<string, Promise<string>>()
  let made = 0

  const logIn = async (who: { readonly username: string; readonly password: string }): Promise<string> => {
    const reply = await fetch(`${url()}/api/user/login`, post({ username: who.username, password: who.password }))
    return (await dataOf<{ access_token: string }>(reply, 'log-in')).access_token
  }

  /** Calls as a user, as root if not given; logs in where needed. @returns `data` of the envelope */
  const call = async <T>(
    method: string,
    path: string,
    body?: unknown,
    who: { readonly username: string; readonly password: string } = ROOT,
  ): Promise<T> => {
    const session = sessions.get(who.username) ?? logIn(who)
    sessions.set(who.username, session)
    session.catch(() => sessions.delete(who.username))
    const reply = await fetch(`${url()}${path}`, {
      method,
      headers: {
        authorization: `Bearer ${await session}`,
        ...(body !== undefined && { 'content-type': 'application/json' }),
      },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    })
    return dataOf<T>(reply, `${method} ${path}`)
  }

  return {
    /** What was given to each account, as the auditor names them. */
    granted: granted as ReadonlyMap<string, number>,
    call,

    /** First set-up; root's name and password are this client's own. */
    async setUp(): Promise<void> {
      const reply = await fetch(`${url()}/api/setup`, post({ ...ROOT, confirmPassword: ROOT.password }))
      await dataOf(reply, 'set-up')
    },

    options: (values: Readonly<Record<string, unknown>>): Promise<void> =>
      call('POST', '/api/option/batch', {
        options: Object.fromEntries(
          Object.entries(values).map(([key, value]) => [
            key,
            typeof value === 'object' ? JSON.stringify(value) : value,
          ]),
        ),
      }),

    /** @param quota of the wallet, in units */
    async user(quota: number): Promise<MadeUser> {
      const username = `user${++made}`
      const { id } = await call<{ id: number }>('POST', '/api/user/', { username, password: PASSWORD })
      granted.set(`u:${id}`, (await call<{ quota: number }>('GET', `/api/user/${id}`)).quota)
      if (quota > 0) await this.addQuota(id, quota)
      return { id, username, password: PASSWORD }
    },

    async addQuota(userId: number, value: number): Promise<void> {
      await call('POST', '/api/user/manage', { id: userId, action: 'add_quota', mode: 'add', value })
      granted.set(`u:${userId}`, (granted.get(`u:${userId}`) ?? 0) + value)
    },

    async apiKey(user: MadeUser, { name = `key${++made}`, quota, fields = {} }: NewKey = {}): Promise<MadeKey> {
      const { id, key } = await call<{ id: number; key: string }>(
        'POST',
        '/api/token/',
        { name, remain_quota: quota ?? 0, unlimited_quota: quota === undefined, ...fields },
        user,
      )
      granted.set(`t:${id}`, quota ?? 0)
      return { id, key: `sk-${key}` }
    },

    /** @returns its id */
    async channel({ name, baseUrl, models, type = 1, key = 'upstream-key', modelMapping, fields }: NewChannel) {
      await call('POST', '/api/channel/', {
        mode: 'single',
        channel: {
          ...{ name, type, key, base_url: baseUrl, models: models.join(','), group: 'default' },
          ...(modelMapping && { model_mapping: JSON.stringify(modelMapping) }),
          ...fields,
        },
      })
      const { items } = await call<{ items: readonly { id: number; name: string }[] }>(
        'GET',
        `/api/channel/search?keyword=${encodeURIComponent(name)}`,
      )
      const found = items.find((channel) => channel.name === name)
      if (!found) throw new Error(`the channel ${name} was made and is not found`)
      return found.id
    },

    /**
     * Call records, newest first, at most 100.
     * @param query of the API, such as `type=5&token_name=k`
     * @param who a user to see them as that user does
     */
    async logs(query = '', who?: MadeUser): Promise<readonly LogRow[]> {
      const path = who ? '/api/log/self' : '/api/log/'
      const { items } = await call<{ items: readonly (Omit<LogRow, 'other'> & { other: string })[] }>(
        'GET',
        `${path}?page_size=100&${query}`,
        undefined,
        who,
      )
      return items.map((row) => ({ ...row, other: (JSON.parse(row.other || '{}') ?? {}) as LogRow['other'] }))
    },

    /** The record of one call, once it has come from the journal into the log. */
    logOf(requestId: string): Promise<LogRow> {
      return eventually(`a log row of the call ${requestId}`, async () => {
        const rows = await this.logs(`request_id=${encodeURIComponent(requestId)}`)
        if (rows.length > 1) throw new Error(`${rows.length} log rows of the call ${requestId}`)
        return rows[0]
      })
    },
  }
}

const post = (body: unknown): RequestInit => ({
  method: 'POST',
  headers: { 'content-type': 'application/json' },
  body: JSON.stringify(body),
})

/** @throws Error with the answer, unless it is a success */
async function dataOf<T>(reply: Response, what: string): Promise<T> {
  const text = await reply.text()
  const json = text.startsWith('{') ? (JSON.parse(text) as { success?: boolean; data: T }) : undefined
  if (reply.status !== 200 || json?.success !== true) throw new Error(`${what}: ${reply.status} ${text.slice(0, 500)}`)
  return json.data
}
