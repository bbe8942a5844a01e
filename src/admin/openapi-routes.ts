/** The OpenAPI document of the admin API, made from the schemas that the routes themselves are checked by. */
import { toOpenAPISchema, unwrapSchema } from '@elysiajs/openapi/openapi'
import { type AnyElysia, Elysia } from 'elysia'

type Paths = Record<string, Record<string, { requestBody?: { content?: Record<string, unknown> } }>>
type Json = Readonly<Record<string, unknown>>
type Schema = Parameters<typeof unwrapSchema>[0]

/**
 * @param documented the instance whose routes are described; asked at the first request, when all are mounted
 */
export const openApiRoutes = (deps: { readonly documented: () => AnyElysia; readonly version: string }) => {
  let document: unknown
  return new Elysia().get('/api/openapi.json', () => (document ??= describe(deps.documented(), deps.version)), {
    detail: { hide: true },
  })
}

function describe(app: AnyElysia, version: string) {
  const { paths, components } = toOpenAPISchema(app)
  return {
    openapi: '3.1.0',
    info: {
      title: 'Headgate',
      version,
      description:
        'Administration of the gateway. Success and refusals are both status 200 with `success`; other statuses say what kind of failure it was. Paths answer with and without a trailing slash.',
    },
    security: [{ bearer: [] }],
    paths: plainSchemas(withBodies(paths as Paths, app)) as Paths,
    components: {
      ...components,
      securitySchemes: {
        bearer: {
          type: 'http',
          scheme: 'bearer',
          description: 'Access token of a login session, personal access token, or (for API key holders) an API key.',
        },
      },
    },
  }
}

/**
 * Schemas as readers of OpenAPI 3.1 know them: the framework writes integers also as texts (as a query has them), numbers
 * of a choice as texts, and the `nullable` of version 3.0.
 */
function plainSchemas(node: unknown): unknown {
  if (Array.isArray(node)) return node.map(plainSchemas)
  if (typeof node !== 'object' || node === null) return node
  const { nullable, ...schema } = node as Json
  const choices = Array.isArray(schema['anyOf']) ? (schema['anyOf'] as Json[]) : []
  const number = choices.find((choice) => choice['type'] === 'integer' || choice['type'] === 'number')
  const isNumberTwice =
    choices.length === 2 && number && choices.some((choice) => NUMBER_TEXTS.has(String(choice['format'])))
  if (isNumberTwice) return number
  const plain: Record<string, unknown> = Object.fromEntries(
    Object.entries(schema).map(([key, value]) => [key, plainSchemas(value)]),
  )
  const values: unknown = plain['enum']
  if (Array.isArray(values) && values.every((value) => typeof value === 'number')) plain['type'] = 'number'
  if (nullable !== true) return plain
  return typeof plain['type'] === 'string'
    ? { ...plain, type: [plain['type'], 'null'] }
    : { anyOf: [plain, { type: 'null' }] }
}

const NUMBER_TEXTS = new Set(['integer', 'numeric'])

/**
 * Bodies are read as JSON whatever their type says, by a parser of our own that the generator cannot look into: so their
 * schemas are put in here. Paths are listed in one spelling.
 */
function withBodies(paths: Paths, app: AnyElysia): Paths {
  const bodies = new Map(
    app.routes.map(({ method, path, hooks }) => [`${method} ${bare(path)}`, (hooks as { body?: Schema }).body]),
  )
  return Object.fromEntries(
    Object.entries(paths).map(([path, methods]) => {
      for (const [method, operation] of Object.entries(methods)) {
        const schema = bodies.get(`${method.toUpperCase()} ${bare(path).replace(/\{(\w+)\}/g, ':$1')}`)
        if (schema)
          operation.requestBody = {
            ...operation.requestBody,
            content: { 'application/json': { schema: unwrapSchema(schema) } },
          }
      }
      return [bare(path), methods]
    }),
  )
}

const bare = (path: string): string => (path.length > 1 ? path.replace(/\/$/, '') : path)
