/** Shapes and limits of the panels on the console's overview. Lengths are in characters. */
import { type TSchema, Type } from '@sinclair/typebox'
import { Value } from '@sinclair/typebox/value'

const COLORS = [
  ...['blue', 'green', 'cyan', 'purple', 'pink', 'red', 'orange', 'amber', 'yellow', 'lime', 'light-green', 'teal'],
  ...['light-blue', 'indigo', 'violet', 'grey'],
]

const required = (maxLength: number) => Type.String({ minLength: 1, maxLength })

/** Reading is lenient (any list of objects), so that panels of an older database still show; writing is strict. */
const panel = (
  maxItems: number,
  item: TSchema,
  rule?: (items: readonly Record<string, unknown>[]) => string | undefined,
) => {
  const strict = Type.Array(item, { maxItems })
  return {
    schema: Type.Array(Type.Record(Type.String(), Type.Unknown())),
    check(value: unknown): string | undefined {
      const problem = Value.Errors(strict, value).First()
      if (problem) return `${problem.path.slice(1).replaceAll('/', '.')}: ${problem.message}`
      return rule?.(value as readonly Record<string, unknown>[]) // The strict schema has just been checked.
    },
  }
}

export const apiInfo = panel(
  50,
  Type.Object({
    url: required(500),
    route: required(100),
    description: required(200),
    color: Type.Union(COLORS.map((color) => Type.Literal(color))),
  }),
  httpAddresses,
)

export const announcements = panel(
  100,
  Type.Object({
    content: required(500),
    publishDate: Type.String(),
    type: Type.Optional(
      Type.Union(['', 'default', 'ongoing', 'success', 'warning', 'error'].map((type) => Type.Literal(type))),
    ),
    extra: Type.Optional(Type.String({ maxLength: 100 })),
  }),
  (items) =>
    items.some(
      ({ publishDate }) =>
        !/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d/.test(String(publishDate)) || Number.isNaN(Date.parse(String(publishDate))),
    )
      ? 'publishDate must be a time such as 2026-08-01T12:00:00Z'
      : undefined,
)

export const faq = panel(100, Type.Object({ question: required(200), answer: required(1000) }))

export const uptimeGroups = panel(
  20,
  Type.Object({
    categoryName: required(50),
    url: required(500),
    slug: required(100),
    description: Type.Optional(Type.String({ maxLength: 200 })),
  }),
  (items) => {
    if (new Set(items.map(({ categoryName }) => categoryName)).size < items.length) return 'categoryName must be unique'
    return httpAddresses(items)
  },
)

function httpAddresses(items: readonly Record<string, unknown>[]): string | undefined {
  return items.every(({ url }) => isHttpUrl(url)) ? undefined : 'url must be an http or https address'
}

function isHttpUrl(value: unknown): boolean {
  return typeof value === 'string' && URL.canParse(value) && /^https?:$/.test(new URL(value).protocol)
}
