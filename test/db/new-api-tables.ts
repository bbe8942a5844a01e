/** The tables of New API as of today. One line per column: name, MySQL type, and what follows the type in the DDL. */
export interface TableText {
  readonly columns: readonly string[]
  /** names of the primary key's columns; `id` counts itself up */
  readonly primaryKey: string
  /** `name(columns)`, with `unique ` before it where it is */
  readonly keys: readonly string[]
}

const table = (columns: string, primaryKey = 'id', keys = ''): TableText => ({
  columns: columns
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== ''),
  primaryKey,
  keys: keys
    .split(';')
    .map((key) => key.trim())
    .filter((key) => key !== ''),
})

const ID = 'id bigint not null'

export const NEW_API: Readonly<Record<string, TableText>> = {
  users: table(
    `${ID}
    username varchar(191)
    password longtext not null
    display_name varchar(191)
    role bigint default 1
    status bigint default 1
    email varchar(191)
    github_id varchar(191)
    discord_id varchar(191)
    oidc_id varchar(191)
    wechat_id varchar(191)
    telegram_id varchar(191)
    linux_do_id varchar(191)
    access_token char(32)
    quota bigint default 0
    used_quota bigint default 0
    request_count bigint default 0
    group varchar(64) default 'default'
    aff_code varchar(32)
    aff_count bigint default 0
    aff_quota bigint default 0
    aff_history bigint default 0
    inviter_id bigint
    deleted_at datetime(3)
    setting text
    remark varchar(255)
    stripe_customer varchar(64)
    created_at bigint
    last_login_at bigint default 0
    auth_version bigint not null default 1`,
    'id',
    `unique username(username); idx_users_username(username); idx_users_display_name(display_name); idx_users_email(email);
     idx_users_git_hub_id(github_id); idx_users_discord_id(discord_id); idx_users_oidc_id(oidc_id); idx_users_we_chat_id(wechat_id);
     idx_users_telegram_id(telegram_id); idx_users_linux_do_id(linux_do_id); unique idx_users_access_token(access_token);
     unique idx_users_aff_code(aff_code); idx_users_inviter_id(inviter_id); idx_users_deleted_at(deleted_at);
     idx_users_stripe_customer(stripe_customer)`,
  ),
  tokens: table(
    `${ID}
    user_id bigint
    key varchar(128)
    status bigint default 1
    name varchar(191)
    created_time bigint
    accessed_time bigint
    expired_time bigint default -1
    remain_quota bigint default 0
    unlimited_quota tinyint(1)
    model_limits_enabled tinyint(1)
    model_limits text
    allow_ips varchar(191) default ''
    used_quota bigint default 0
    group varchar(191) default ''
    cross_group_retry tinyint(1)
    auto_groups text
    deleted_at datetime(3)`,
    'id',
    'idx_tokens_user_id(user_id); unique idx_tokens_key(key); idx_tokens_name(name); idx_tokens_deleted_at(deleted_at)',
  ),
  channels: table(
    `${ID}
    type bigint default 0
    key longtext not null
    open_ai_organization longtext
    test_model longtext
    status bigint default 1
    name varchar(191)
    weight bigint unsigned default 0
    created_time bigint
    test_time bigint
    response_time bigint
    base_url varchar(191) default ''
    other longtext
    balance double
    balance_updated_time bigint
    models longtext
    group varchar(64) default 'default'
    used_quota bigint default 0
    model_mapping text
    status_code_mapping varchar(1024) default ''
    priority bigint default 0
    auto_ban bigint default 1
    other_info longtext
    tag varchar(191)
    setting text
    param_override text
    header_override text
    remark varchar(255)
    channel_info json
    settings longtext`,
    'id',
    'idx_channels_name(name); idx_channels_tag(tag)',
  ),
  abilities: table(
    `group varchar(64) not null
    model varchar(255) not null
    channel_id bigint not null
    enabled tinyint(1)
    priority bigint default 0
    weight bigint unsigned default 0
    tag varchar(191)`,
    'group,model,channel_id',
    'idx_abilities_channel_id(channel_id); idx_abilities_priority(priority); idx_abilities_weight(weight); idx_abilities_tag(tag)',
  ),
  options: table('key varchar(191) not null\nvalue longtext', 'key'),
  logs: table(
    `${ID}
    user_id bigint
    created_at bigint
    type bigint
    content longtext
    username varchar(191) default ''
    token_name varchar(191) default ''
    model_name varchar(191) default ''
    quota bigint default 0
    prompt_tokens bigint default 0
    completion_tokens bigint default 0
    use_time bigint default 0
    is_stream tinyint(1)
    channel_id bigint
    channel_name longtext
    token_id bigint default 0
    group varchar(191)
    ip varchar(191) default ''
    request_id varchar(64) default ''
    upstream_request_id varchar(128) default ''
    other longtext`,
    'id',
    `idx_created_at_id(created_at,id); idx_user_id_id(user_id,id); idx_logs_user_id(user_id); idx_created_at_type(created_at,type);
     idx_logs_username(username); index_username_model_name(model_name,username); idx_logs_token_name(token_name);
     idx_logs_model_name(model_name); idx_logs_channel_id(channel_id); idx_logs_token_id(token_id); idx_logs_group(group);
     idx_logs_ip(ip); idx_logs_request_id(request_id); idx_logs_upstream_request_id(upstream_request_id)`,
  ),
  redemptions: table(
    `${ID}
    user_id bigint
    key char(32)
    status bigint default 1
    name varchar(191)
    quota bigint default 100
    created_time bigint
    redeemed_time bigint
    used_user_id bigint
    deleted_at datetime(3)
    expired_time bigint`,
    'id',
    'unique idx_redemptions_key(key); idx_redemptions_name(name); idx_redemptions_deleted_at(deleted_at)',
  ),
  quota_data: table(
    `${ID}
    user_id bigint
    username varchar(64) default ''
    model_name varchar(64) default ''
    created_at bigint
    use_group varchar(64) default ''
    token_id bigint default 0
    channel_id bigint default 0
    node_name varchar(64) default ''
    token_used bigint default 0
    count bigint default 0
    quota bigint default 0`,
    'id',
    `idx_quota_data_user_id(user_id); idx_qdt_model_user_name(model_name,username); idx_qdt_created_at(created_at);
     idx_quota_data_use_group(use_group); idx_quota_data_token_id(token_id); idx_quota_data_channel_id(channel_id);
     idx_quota_data_node_name(node_name)`,
  ),
  setups: table('id bigint unsigned not null\nversion varchar(50) not null\ninitialized_at bigint not null'),
  user_sessions: table(
    `sid varchar(64) not null
    user_id bigint not null
    version bigint not null default 1
    user_auth_version bigint not null
    status varchar(16) not null
    refresh_hash char(64) not null
    previous_refresh_hash varchar(64)
    previous_valid_until bigint not null default 0
    login_method varchar(32) not null
    ip varchar(64)
    user_agent text
    created_at bigint
    last_active_at bigint not null
    expires_at bigint not null
    revoked_at bigint not null default 0
    revoked_reason varchar(64)`,
    'sid',
    `idx_user_sessions_user_status_expiry(user_id,status,expires_at); idx_user_sessions_user_created(user_id,created_at);
     idx_user_sessions_status_revoked(status,revoked_at); idx_user_sessions_expires_at(expires_at)`,
  ),
  auth_flows: table(
    `${ID}
    token_hash char(64) not null
    purpose varchar(32) not null
    provider varchar(64)
    intent varchar(16)
    user_id bigint
    session_id varchar(64)
    payload text
    created_at datetime(3)
    expires_at datetime(3) not null
    consumed_at datetime(3)`,
    'id',
    `unique idx_auth_flows_token_hash(token_hash); idx_auth_flow_purpose_expiry(purpose,expires_at); idx_auth_flows_user_id(user_id);
     idx_auth_flows_session_id(session_id); idx_auth_flows_consumed_at(consumed_at)`,
  ),
  top_ups: table(
    `${ID}
    user_id bigint
    amount bigint
    money double
    trade_no varchar(255)
    payment_method varchar(50)
    payment_provider varchar(50) default ''
    create_time bigint
    complete_time bigint
    status longtext`,
    'id',
    'unique trade_no(trade_no); idx_top_ups_user_id(user_id); idx_top_ups_trade_no(trade_no)',
  ),
  midjourneys: table(
    `${ID}
    code bigint
    user_id bigint
    action varchar(40)
    mj_id varchar(191)
    prompt longtext
    prompt_en longtext
    description longtext
    state longtext
    submit_time bigint
    start_time bigint
    finish_time bigint
    image_url longtext
    video_url longtext
    video_urls longtext
    status varchar(20)
    progress varchar(30)
    fail_reason longtext
    channel_id bigint
    quota bigint
    buttons longtext
    properties longtext
    token_id bigint default 0
    billing_channel_id bigint default 0`,
    'id',
    'idx_midjourneys_user_id(user_id); idx_midjourneys_action(action); idx_midjourneys_mj_id(mj_id)',
  ),
  tasks: table(
    `${ID}
    created_at bigint
    updated_at bigint
    task_id varchar(191)
    platform varchar(30)
    user_id bigint
    group varchar(50)
    channel_id bigint
    quota bigint
    action varchar(40)
    status varchar(20)
    fail_reason longtext
    submit_time bigint
    start_time bigint
    finish_time bigint
    progress varchar(20)
    properties json
    private_data json
    data json`,
    'id',
    `idx_tasks_created_at(created_at); idx_tasks_task_id(task_id); idx_tasks_platform(platform); idx_tasks_user_id(user_id);
     idx_tasks_channel_id(channel_id); idx_tasks_action(action); idx_tasks_status(status); idx_tasks_submit_time(submit_time);
     idx_tasks_start_time(start_time); idx_tasks_finish_time(finish_time); idx_tasks_progress(progress)`,
  ),
  models: table(
    `${ID}
    model_name varchar(128) not null
    description text
    icon varchar(128)
    tags varchar(255)
    vendor_id bigint
    endpoints text
    status bigint default 1
    sync_official bigint default 1
    created_time bigint
    updated_time bigint
    deleted_at datetime(3)
    name_rule bigint default 0`,
    'id',
    'unique uk_model_name_delete_at(model_name,deleted_at); idx_models_vendor_id(vendor_id); idx_models_deleted_at(deleted_at)',
  ),
  vendors: table(
    `${ID}
    name varchar(128) not null
    description text
    icon varchar(128)
    status bigint default 1
    created_time bigint
    updated_time bigint
    deleted_at datetime(3)`,
    'id',
    'unique uk_vendor_name_delete_at(name,deleted_at); idx_vendors_deleted_at(deleted_at)',
  ),
  prefill_groups: table(
    `${ID}
    name varchar(64) not null
    type varchar(32) not null
    items json
    description varchar(255)
    created_time bigint
    updated_time bigint
    deleted_at datetime(3)`,
    'id',
    'unique uk_prefill_name(name); idx_prefill_groups_type(type)',
  ),
  two_fas: table(
    `${ID}
    user_id bigint not null
    secret varchar(255) not null
    is_enabled tinyint(1)
    failed_attempts bigint default 0
    locked_until datetime(3)
    last_used_at datetime(3)
    created_at datetime(3)
    updated_at datetime(3)
    deleted_at datetime(3)`,
    'id',
    'unique user_id(user_id); idx_two_fas_user_id(user_id)',
  ),
  two_fa_backup_codes: table(
    `${ID}
    user_id bigint not null
    code_hash varchar(255) not null
    is_used tinyint(1)
    used_at datetime(3)
    created_at datetime(3)
    deleted_at datetime(3)`,
    'id',
    'idx_two_fa_backup_codes_user_id(user_id)',
  ),
  passkey_credentials: table(
    `${ID}
    user_id bigint not null
    credential_id varchar(512) not null
    public_key text not null
    attestation_type varchar(255)
    aa_guid varchar(512)
    sign_count int unsigned default 0
    clone_warning tinyint(1)
    user_present tinyint(1)
    user_verified tinyint(1)
    backup_eligible tinyint(1)
    backup_state tinyint(1)
    transports text
    attachment varchar(32)
    last_used_at datetime(3)
    created_at datetime(3)
    updated_at datetime(3)
    deleted_at datetime(3)`,
    'id',
    'unique idx_passkey_credentials_user_id(user_id); unique idx_passkey_credentials_credential_id(credential_id)',
  ),
  custom_oauth_providers: table(
    `${ID}
    name varchar(64) not null
    slug varchar(64) not null
    icon varchar(128) default ''
    enabled tinyint(1) default 0
    client_id varchar(256)
    client_secret varchar(512)
    authorization_endpoint varchar(512)
    token_endpoint varchar(512)
    user_info_endpoint varchar(512)
    scopes varchar(256) default 'openid profile email'
    user_id_field varchar(128) default 'sub'
    username_field varchar(128) default 'preferred_username'
    display_name_field varchar(128) default 'name'
    email_field varchar(128) default 'email'
    well_known varchar(512)
    auth_style bigint default 0
    access_policy text
    access_denied_message varchar(512)
    created_at datetime(3)
    updated_at datetime(3)`,
    'id',
    'unique idx_custom_oauth_providers_slug(slug)',
  ),
  user_oauth_bindings: table(
    `${ID}
    user_id bigint not null
    provider_id bigint not null
    provider_user_id varchar(256) not null
    created_at datetime(3)`,
    'id',
    'unique ux_user_provider(user_id,provider_id); unique ux_provider_userid(provider_id,provider_user_id)',
  ),
  external_identity_claims: table(
    `${ID}
    provider varchar(32) not null
    subject varchar(128) not null
    user_id bigint not null
    created_at datetime(3)`,
    'id',
    'unique idx_external_identity_subject(provider,subject); unique idx_external_identity_user(provider,user_id)',
  ),
  subscription_plans: table(
    `${ID}
    title varchar(128) not null
    subtitle varchar(255) default ''
    price_amount decimal(10,6) not null default 0
    currency varchar(8) not null default 'USD'
    duration_unit varchar(16) not null default 'month'
    duration_value bigint not null default 1
    custom_seconds bigint not null default 0
    enabled tinyint(1) default 1
    sort_order bigint default 0
    allow_balance_pay tinyint(1)
    allow_wallet_overflow tinyint(1)
    stripe_price_id varchar(128) default ''
    upgrade_group varchar(64) default ''
    total_amount bigint not null default 0
    quota_reset_period varchar(16) default 'never'
    created_at bigint
    updated_at bigint`,
  ),
  subscription_orders: table(
    `${ID}
    user_id bigint
    plan_id bigint
    money double
    trade_no varchar(255)
    payment_method varchar(50)
    payment_provider varchar(50) default ''
    status longtext
    create_time bigint
    complete_time bigint
    provider_payload text`,
    'id',
    'unique trade_no(trade_no); idx_subscription_orders_trade_no(trade_no)',
  ),
  user_subscriptions: table(
    `${ID}
    user_id bigint
    plan_id bigint
    amount_total bigint not null default 0
    amount_used bigint not null default 0
    start_time bigint
    end_time bigint
    status varchar(32)
    source varchar(32) default 'order'
    last_reset_time bigint default 0
    next_reset_time bigint default 0
    upgrade_group varchar(64) default ''
    allow_wallet_overflow tinyint(1)
    created_at bigint
    updated_at bigint`,
    'id',
    'idx_user_sub_active(user_id,status,end_time)',
  ),
  subscription_pre_consume_records: table(
    `${ID}
    request_id varchar(64)
    user_id bigint
    user_subscription_id bigint
    pre_consumed bigint not null default 0
    status varchar(32)
    created_at bigint
    updated_at bigint`,
    'id',
    'unique idx_subscription_pre_consume_records_request_id(request_id)',
  ),
  checkins: table(
    `${ID}
    user_id bigint not null
    checkin_date varchar(10) not null
    quota_awarded bigint not null
    created_at bigint`,
    'id',
    'unique idx_user_checkin_date(user_id,checkin_date)',
  ),
  perf_metrics: table(
    `${ID}
    model_name varchar(128)
    group varchar(64)
    bucket_ts bigint
    request_count bigint default 0
    success_count bigint default 0
    total_latency_ms bigint default 0
    output_tokens bigint default 0`,
    'id',
    'unique idx_perf_model_group_bucket(model_name,group,bucket_ts)',
  ),
  system_tasks: table(
    `${ID}
    task_id varchar(64)
    type varchar(64)
    status varchar(32)
    active_key varchar(64)
    payload text
    state text
    result text
    error text
    locked_by varchar(128)
    created_at bigint
    updated_at bigint`,
    'id',
    'unique idx_system_tasks_task_id(task_id); unique idx_system_tasks_active_key(active_key)',
  ),
  system_task_locks: table(
    `type varchar(64) not null
    task_id varchar(64)
    locked_by varchar(128)
    locked_until bigint
    updated_at bigint`,
    'type',
  ),
  system_instances: table(
    `node_name varchar(128) not null
    info text
    started_at bigint
    last_seen_at bigint
    created_at bigint
    updated_at bigint`,
    'node_name',
  ),
  authz_roles: table(
    `id bigint unsigned not null
    key varchar(64) not null
    name varchar(100) not null
    description text
    built_in tinyint(1)
    enabled tinyint(1)
    sort bigint
    created_at bigint
    updated_at bigint`,
    'id',
    'unique idx_authz_roles_key(key)',
  ),
  casbin_rule: table(
    `id bigint unsigned not null
    ptype varchar(100)
    v0 varchar(100)
    v1 varchar(100)
    v2 varchar(100)
    v3 varchar(100)
    v4 varchar(100)
    v5 varchar(100)`,
    'id',
    'idx_casbin_rule_plain(ptype,v0)',
  ),
}
