/** The list of nodes as New API's clients know it, for root. */
import { Elysia, t } from 'elysia'
import { ROLE } from '../domain/accounts/index.ts'
import type { NodeRegistry } from '../domain/cluster/index.ts'
import { GatewayError } from '../errors.ts'
import { type AdminHttp, envelope, ok } from './http.ts'

const instanceJson = t.Object({
  node_name: t.String(),
  status: t.String({ description: 'online or stale' }),
  stale_after_seconds: t.Integer(),
  started_at: t.Integer({ description: 'Unix seconds' }),
  last_seen_at: t.Integer(),
  info: t.Record(t.String(), t.Any()),
})
const deletedJson = t.Object({ deleted_count: t.Integer() })

export const systemInfoRoutes = ({
  registry,
  http,
}: {
  readonly registry: Pick<NodeRegistry, 'list' | 'removeStale' | 'staleAfterSec'>
  readonly http: AdminHttp
}) =>
  new Elysia({ prefix: '/api/system-info', detail: { tags: ['operation'] } })
    .get(
      '/instances',
      async ({ request }) => {
        await http.actor(request, ROLE.root)
        const nodes = await registry.list()
        return ok(
          nodes.map((node) => ({
            node_name: node.name,
            status: node.isOnline ? 'online' : 'stale',
            stale_after_seconds: registry.staleAfterSec,
            started_at: node.startedAtSec,
            last_seen_at: node.lastSeenAtSec,
            info: node.info,
          })),
        )
      },
      { response: envelope(t.Array(instanceJson)), detail: { summary: 'Nodes, by name' } },
    )
    .delete(
      '/stale-instances',
      async ({ request }) => {
        await http.actor(request, ROLE.root)
        return ok({ deleted_count: await registry.removeStale() })
      },
      { response: envelope(deletedJson), detail: { summary: 'Forget the nodes that are not there any more' } },
    )
    .delete(
      '/instances/:node_name',
      async ({ request, params }) => {
        await http.actor(request, ROLE.root)
        const name = params.node_name
        const node = (await registry.list()).find((each) => each.name === name)
        if (!node) throw new GatewayError('node_not_found', { params: { name } })
        const removed = await registry.removeStale({ name })
        if (removed === 0) throw new GatewayError('node_is_online', { params: { name } })
        return ok({ deleted_count: removed })
      },
      {
        params: t.Object({ node_name: t.String() }),
        response: envelope(deletedJson),
        detail: { summary: 'Forget one node that is not there any more' },
      },
    )
