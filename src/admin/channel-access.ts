/** Who may do what with channels: reading and switching is for administrators, keys and addresses are for root. */
import { channelPermissions, ROLE } from '../domain/accounts/index.ts'
import { GatewayError } from '../errors.ts'
import type { Actor, AdminHttp } from './http.ts'

type Permission = keyof ReturnType<typeof channelPermissions>

/** @returns a check that gives who is calling, and throws a GatewayError 401, or 403 without the permission */
export const allowOnChannels =
  (http: AdminHttp) =>
  async (request: Request, permission: Permission): Promise<Actor> => {
    const actor = await http.actor(request, ROLE.admin)
    if (channelPermissions(actor.role)[permission]) return actor
    throw new GatewayError('channel_action_forbidden', { params: { action: permission } })
  }
