/** Channels, what they serve, and descriptions of models and vendors: names and types are New API's. */
import type { Kit } from '../kit.ts'

export const defineChannelTables = (k: Kit) => ({
  channels: k.table(
    'channels',
    {
      id: k.id(),
      /** provider id */
      type: k.bigint('type').default(0),
      /** one credential, several by newline, or a JSON array */
      key: k.longtext('key').notNull(),
      openAiOrganization: k.longtext('open_ai_organization'),
      testModel: k.longtext('test_model'),
      /** 1 enabled, 2 disabled by hand, 3 disabled automatically */
      status: k.bigint('status').default(1),
      name: k.varchar('name', 191),
      weight: k.unsigned('weight').default(0),
      createdTime: k.bigint('created_time'),
      testTime: k.bigint('test_time'),
      /** milliseconds of the last test */
      responseTime: k.bigint('response_time'),
      baseUrl: k.varchar('base_url', 191).default(''),
      other: k.longtext('other'),
      /** US dollars */
      balance: k.double('balance'),
      balanceUpdatedTime: k.bigint('balance_updated_time'),
      /** comma-separated, not trimmed */
      models: k.longtext('models'),
      /** comma-separated user groups */
      group: k.varchar('group', 64).default('default'),
      usedQuota: k.bigint('used_quota').default(0),
      /** JSON object */
      modelMapping: k.text('model_mapping'),
      /** JSON object */
      statusCodeMapping: k.varchar('status_code_mapping', 1024).default(''),
      priority: k.bigint('priority').default(0),
      autoBan: k.bigint('auto_ban').default(1),
      /** JSON object */
      otherInfo: k.longtext('other_info'),
      tag: k.varchar('tag', 191),
      /** JSON object; not `settings` */
      setting: k.text('setting'),
      /** JSON object */
      paramOverride: k.text('param_override'),
      /** JSON object */
      headerOverride: k.text('header_override'),
      remark: k.varchar('remark', 255),
      /** JSON text; NULL = a single key */
      channelInfo: k.json('channel_info'),
      /** JSON object; not `setting` */
      settings: k.longtext('settings'),
    },
    (t) => [k.index('idx_channels_name').on(t.name), k.index('idx_channels_tag').on(t.tag)],
  ),

  /** (group × model) of every channel; derived. */
  abilities: k.table(
    'abilities',
    {
      group: k.varchar('group', 64).notNull(),
      model: k.varchar('model', 255).notNull(),
      channelId: k.bigint('channel_id').notNull(),
      enabled: k.bool('enabled'),
      priority: k.bigint('priority').default(0),
      weight: k.unsigned('weight').default(0),
      tag: k.varchar('tag', 191),
    },
    (t) => [
      k.primaryKey({ columns: [t.group, t.model, t.channelId] }),
      k.index('idx_abilities_channel_id').on(t.channelId),
      k.index('idx_abilities_priority').on(t.priority),
      k.index('idx_abilities_weight').on(t.weight),
      k.index('idx_abilities_tag').on(t.tag),
    ],
  ),

  models: k.table(
    'models',
    {
      id: k.id(),
      modelName: k.varchar('model_name', 128).notNull(),
      description: k.text('description'),
      icon: k.varchar('icon', 128),
      tags: k.varchar('tags', 255),
      vendorId: k.bigint('vendor_id'),
      /** JSON */
      endpoints: k.text('endpoints'),
      status: k.bigint('status').default(1),
      syncOfficial: k.bigint('sync_official').default(1),
      createdTime: k.bigint('created_time'),
      updatedTime: k.bigint('updated_time'),
      deletedAt: k.datetime3('deleted_at'),
      /** 0 exact, 1 prefix, 2 contains, 3 suffix */
      nameRule: k.bigint('name_rule').default(0),
    },
    (t) => [
      k.uniqueIndex('uk_model_name_delete_at').on(t.modelName, t.deletedAt),
      k.index('idx_models_vendor_id').on(t.vendorId),
      k.index('idx_models_deleted_at').on(t.deletedAt),
    ],
  ),

  vendors: k.table(
    'vendors',
    {
      id: k.id(),
      name: k.varchar('name', 128).notNull(),
      description: k.text('description'),
      icon: k.varchar('icon', 128),
      status: k.bigint('status').default(1),
      createdTime: k.bigint('created_time'),
      updatedTime: k.bigint('updated_time'),
      deletedAt: k.datetime3('deleted_at'),
    },
    (t) => [
      k.uniqueIndex('uk_vendor_name_delete_at').on(t.name, t.deletedAt),
      k.index('idx_vendors_deleted_at').on(t.deletedAt),
    ],
  ),
})
