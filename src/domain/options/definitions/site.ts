/** Options of how the site presents itself. */
import { Type } from '@sinclair/typebox'
import { flag, json, text, whole } from '../option.ts'
import { announcements, apiInfo, faq, uptimeGroups } from './panels.ts'
import { onlyDefaultTheme } from './rules.ts'

const shown = { isPublic: true } as const
const unsetJson = { isPublic: true, isUnset: true, defaultText: '' } as const
const emptyList = { isPublic: true, defaultText: '' } as const
const modules = Type.Record(Type.String(), Type.Unknown())

export const siteOptions = [
  text('SystemName', 'Headgate', 'Name of the site', shown),
  text('Logo', '', 'Address of the logo', shown),
  text('Footer', '', 'Footer, HTML', shown),
  text('ServerAddress', '', 'Public address of this gateway', shown),
  text('Notice', '', 'Notice, Markdown', shown),
  text('About', '', 'About page: Markdown, HTML or an address', shown),
  text('HomePageContent', '', 'Home page: Markdown, HTML or an address', shown),
  text('theme.frontend', 'default', 'Theme', { isSecret: true, check: onlyDefaultTheme }),
  text('general_setting.docs_link', '', 'Address of the documentation', shown),
  flag('DefaultCollapseSidebar', false, 'Side bar starts collapsed', shown),
  json('HeaderNavModules', modules, {}, 'Entries of the top menu', unsetJson),
  json('SidebarModulesAdmin', modules, {}, 'Entries of the side bar', unsetJson),
  json(
    'Chats',
    Type.Array(Type.Record(Type.String(), Type.String())),
    [
      { 'Cherry Studio': 'cherrystudio://providers/api-keys?v=1&data={cherryConfig}' },
      { AionUI: 'aionui://provider/add?v=1&data={aionuiConfig}' },
      { DeepChat: 'deepchat://provider/install?v=1&data={deepchatConfig}' },
      {
        'Lobe Chat':
          'https://chat-preview.lobehub.com/?settings={"keyVaults":{"openai":{"apiKey":"{key}","baseURL":"{address}/v1"}}}',
      },
      {
        'AI as Workspace':
          'https://aiaw.app/set-provider?provider={"type":"openai","settings":{"apiKey":"{key}","baseURL":"{address}/v1","compatibility":"strict"}}',
      },
      { OpenCat: 'opencat://team/join?domain={address}&token={key}' },
    ],
    'Chat clients: name and address',
    shown,
  ),
  text('TopUpLink', '', 'Address of the shop for codes', shown),
  whole('FileUploadPermission', 0, 'Unused'),
  whole('FileDownloadPermission', 0, 'Unused'),
  whole('ImageUploadPermission', 0, 'Unused'),
  whole('ImageDownloadPermission', 0, 'Unused'),
  flag('DrawingEnabled', true, 'Drawing tasks', shown),
  flag('TaskEnabled', true, 'Tasks', shown),
  flag('DataExportEnabled', true, 'Hourly sums for the dashboard', shown),
  whole('DataExportInterval', 5, 'Minutes between writes of the hourly sums', { minimum: 1 }),
  text('DataExportDefaultTime', 'hour', 'Default step of the dashboard', shown),
  json('console_setting.api_info', apiInfo.schema, [], 'Addresses shown on the overview', {
    ...emptyList,
    check: apiInfo.check,
  }),
  flag('console_setting.api_info_enabled', true, 'Show the addresses', shown),
  json('console_setting.announcements', announcements.schema, [], 'Announcements', {
    ...emptyList,
    check: announcements.check,
  }),
  flag('console_setting.announcements_enabled', true, 'Show the announcements', shown),
  json('console_setting.faq', faq.schema, [], 'Questions and answers', { ...emptyList, check: faq.check }),
  flag('console_setting.faq_enabled', true, 'Show questions and answers', shown),
  json('console_setting.uptime_kuma_groups', uptimeGroups.schema, [], 'Uptime Kuma groups', {
    defaultText: '',
    check: uptimeGroups.check,
  }),
  flag('console_setting.uptime_kuma_enabled', true, 'Show Uptime Kuma', shown),
] as const
