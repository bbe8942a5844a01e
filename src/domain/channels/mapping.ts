/** The two mappings of a channel: the model's name towards the upstream, and the status of its errors. */
import { GatewayError } from '../../errors.ts'
import type { Channel } from './channel.ts'

/**
 * Follows the channel's model mapping from name to name. A name that maps to itself ends the chain there.
 * @returns the name sent upstream; the model itself when it is not mapped
 * @throws GatewayError `channel:model_mapped_error` on a cycle or when the stored mapping cannot be read
 */
export const upstreamModel = (channel: Channel, model: string): string => {
  if (channel.isModelMappingDamaged) {
    throw new GatewayError('channel:model_mapped_error', {
      detail: { channelId: channel.id, reason: 'not a JSON object' },
    })
  }
  if (!channel.modelMapping.has(model)) return model
  const seen = new Set([model])
  let name = model
  for (;;) {
    const next = channel.modelMapping.get(name)
    if (next === undefined || next === '' || next === name) return name
    if (seen.has(next)) {
      throw new GatewayError('channel:model_mapped_error', {
        detail: { channelId: channel.id, cycle: [...seen, next] },
      })
    }
    seen.add(next)
    name = next
  }
}

/** The status of an upstream's error as the operator wants it seen: before retry and health rules, and by the client. */
export const mappedStatus = (channel: Channel, status: number): number => channel.statusMapping.get(status) ?? status
