/** `GET /` for a browser: is it set up, and the lines to paste, with the address of this installation filled in. */
import { createHash } from 'node:crypto'
import { Elysia } from 'elysia'
import type { Accounts } from '../domain/accounts/index.ts'
import type { Options } from '../domain/options/index.ts'
import { type Language, preferredLanguage } from '../lib/headers.ts'

const STYLE = `:root{color-scheme:light dark}body{font:16px/1.6 system-ui,sans-serif;max-width:46rem;margin:3rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.05rem;margin-top:2rem}pre{padding:.8rem 1rem;overflow-x:auto;border:1px solid #8886;border-radius:.4rem;font-size:.85rem}
.state{padding:.6rem 1rem;border-left:.25rem solid #2a7}.state.open{border-color:#d80}`

/** Nothing but the style below may run, load or be framed. */
const CONTENT_SECURITY_POLICY = [
  "default-src 'none'",
  `style-src 'sha256-${createHash('sha256').update(STYLE).digest('base64')}'`,
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ')

const TEXTS = {
  en: {
    lang: 'en',
    done: 'This gateway is set up.',
    open: 'This gateway is not set up yet: the first step below makes its administrator.',
    steps: [
      'Set up: choose a name and a password of at least 8 characters',
      'Log in and keep the access token',
      'Add a channel: an upstream and its key',
      'Make an API key',
      'Call a model',
    ],
    document: 'All of the administration API: ',
  },
  zh: {
    lang: 'zh-CN',
    done: '网关已完成初始化。',
    open: '网关尚未初始化：下面第一步将创建管理员。',
    steps: [
      '初始化：设置用户名和至少 8 位的密码',
      '登录并保存访问令牌',
      '添加渠道：上游及其密钥',
      '创建 API 令牌',
      '调用模型',
    ],
    document: '完整的管理接口文档：',
  },
} as const satisfies Record<Language, unknown>

export const homeRoutes = (deps: {
  readonly accounts: Pick<Accounts, 'setup'>
  readonly options: Options
  /** Public address, '' while unknown. */
  readonly baseUrl: () => string
}) =>
  new Elysia().get(
    '/',
    ({ request }) => {
      const page = render({
        name: deps.options.get('SystemName'),
        isDone: deps.accounts.setup.isDone(),
        address: addressOf(request, deps.baseUrl()),
        language: preferredLanguage(request.headers.get('accept-language')),
      })
      return new Response(page, {
        headers: {
          'content-type': 'text/html; charset=utf-8',
          'content-security-policy': CONTENT_SECURITY_POLICY,
          'x-content-type-options': 'nosniff',
          'referrer-policy': 'no-referrer',
          'cache-control': 'no-store',
          vary: 'Accept-Language',
        },
      })
    },
    { detail: { hide: true } },
  )

/** The address that the operator gave, else the one the browser used. */
function addressOf(request: Request, configured: string): string {
  if (configured !== '') return configured
  const host = request.headers.get('host') ?? ''
  if (!/^[\w.:[\]-]{1,255}$/.test(host)) return 'http://localhost:3000'
  return `${request.headers.get('x-forwarded-proto') === 'https' ? 'https' : 'http'}://${host}`
}

function render(page: {
  readonly name: string
  readonly isDone: boolean
  readonly address: string
  readonly language: Language
}): string {
  const texts = TEXTS[page.language]
  const steps = commands(page.address).map(
    (lines, index) => `<h2>${index + 1}. ${escapeHtml(texts.steps[index] ?? '')}</h2>\n<pre>${escapeHtml(lines)}</pre>`,
  )
  const from = page.isDone ? 1 : 0
  return `<!doctype html>
<html lang="${texts.lang}">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>${escapeHtml(page.name)}</title><style>${STYLE}</style></head>
<body>
<h1>${escapeHtml(page.name)}</h1>
<p class="state${page.isDone ? '' : ' open'}">${escapeHtml(page.isDone ? texts.done : texts.open)}</p>
${steps.slice(from).join('\n')}
<p>${escapeHtml(texts.document)}<a href="/api/openapi.json">/api/openapi.json</a></p>
</body>
</html>
`
}

/** One text per step; they need nothing but a shell, curl and sed. */
const commands = (address: string): readonly string[] => [
  `curl ${address}/api/setup -d '{"username":"root","password":"<password>","confirmPassword":"<password>"}'`,
  `TOKEN=$(curl -s ${address}/api/user/login -d '{"username":"root","password":"<password>"}' | sed 's/.*"access_token":"\\([^"]*\\)".*/\\1/')`,
  `curl ${address}/api/channel/ -H "Authorization: Bearer $TOKEN" \\
  -d '{"mode":"single","channel":{"type":1,"name":"openai","key":"<upstream key>","models":"gpt-4o-mini","group":"default"}}'`,
  `KEY=sk-$(curl -s ${address}/api/token/ -H "Authorization: Bearer $TOKEN" \\
  -d '{"name":"first","unlimited_quota":true}' | sed 's/.*"key":"\\([^"]*\\)".*/\\1/')`,
  `curl ${address}/v1/chat/completions -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" \\
  -d '{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hello"}]}'`,
]

const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
}

const escapeHtml = (text: string): string => text.replace(/[&<>"']/g, (character) => ENTITIES[character] ?? character)
