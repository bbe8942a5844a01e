/**
 * The least role that each area of the API asks for, checked before a body is even looked at. A route that is not named
 * here needs a user; handlers ask again, with what else they need. First match wins.
 */
import { ROLE } from '../domain/accounts/index.ts'

const PUBLIC = 0
type Rule = readonly [routes: RegExp, role: number]

const RULES: readonly Rule[] = [
  [/^\/api\/(setup|status|notice|about|home_page_content|user-agreement|privacy-policy|openapi\.json)$/, PUBLIC],
  [/^\/api\/user\/(login|auth\/\w+|logout|groups)$/, PUBLIC],
  [/^\/api\/(pricing|ratio_config|\*)$/, PUBLIC],
  // These ask for an API key instead.
  [/^\/api\/(log\/token|usage\/token)$/, PUBLIC],
  [/^\/api\/(option|config|alert|cluster|performance|system-info|system-task)(\/|$)/, ROLE.root],
  [/^\/api\/(log|data|user)(\/\w+)?\/self(\/|$)/, ROLE.user],
  [/^\/api\/(channel|redemption|group|log|data)(\/|$)/, ROLE.admin],
  [/^\/api\/status\/test$/, ROLE.admin],
  [/^\/api\/user(\/(search|manage|:id))?$/, ROLE.admin],
]

/**
 * @param route the route's pattern, as registered
 * @returns the least role; 0 for everyone
 */
export function leastRole(route: string): number {
  const bare = route.length > 1 ? route.replace(/\/$/, '') : route
  if (!bare.startsWith('/api/')) return PUBLIC
  return RULES.find(([routes]) => routes.test(bare))?.[1] ?? ROLE.user
}
