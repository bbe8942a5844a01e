import { expect, test } from 'bun:test'
import {
  autoGroups,
  groupRatio,
  hasSecretEnding,
  selectableGroups,
  usableGroups,
} from '../../../src/domain/options/index.ts'
import { optionsOf } from './options-of.ts'

const options = optionsOf({
  GroupRatio: '{"default":1,"vip":2,"plus":3,"free":0,"own":4}',
  GroupGroupRatio: '{"vip":{"default":0.5,"free":0}}',
  UserUsableGroups: '{"default":"Default","vip":"VIP","gone":"Not there any more","auto":"Automatic"}',
  'group_ratio_setting.group_special_usable_group': '{"vip":{"+:plus":"Plus","free":"Free","-:default":""}}',
  AutoGroups: '["vip","gone","default","vip","plus"]',
  MaxTokenAutoGroups: '2',
})

test('a group costs its ratio, a user group may have one of its own, an unknown group costs 1', () => {
  expect(groupRatio(options, 'default', 'vip')).toBe(2)
  expect(groupRatio(options, 'vip', 'default')).toBe(0.5)
  expect(groupRatio(options, 'vip', 'free')).toBe(0)
  expect(groupRatio(options, 'default', 'unknown')).toBe(1)
})

test('usable is what is open to all, changed by the user group’s rules, and the own group', () => {
  expect([...usableGroups(options, 'vip')]).toEqual([
    ['vip', 'VIP'],
    ['gone', 'Not there any more'],
    ['auto', 'Automatic'],
    ['plus', 'Plus'],
    ['free', 'Free'],
  ])
  expect([...usableGroups(options, 'own').keys()]).toEqual(['default', 'vip', 'gone', 'auto', 'own'])
  expect(usableGroups(options, '').has('')).toBe(false)
})

test('selectable is what is usable and has a ratio', () => {
  expect([...selectableGroups(options, 'vip').keys()]).toEqual(['vip', 'plus', 'free'])
})

test('auto is the option’s list or the key’s own, without what may not be used', () => {
  expect(autoGroups(options, 'default')).toEqual(['vip', 'default'])
  expect(autoGroups(options, 'vip')).toEqual(['vip', 'plus'])
  expect(autoGroups(options, 'vip', ['free', 'plus', 'vip'])).toEqual(['free', 'plus'])
})

test('keys that hold credentials are known by their ending', () => {
  const keys = [
    'SMTPToken',
    'TurnstileSiteKey',
    'oidc.client_secret',
    'model_deployment.ionet.api_key',
    'StripeApiSecret',
  ]
  expect(keys.every(hasSecretEnding)).toBe(true)
  expect(['SystemName', 'TokenName', 'api_key_hint'].some(hasSecretEnding)).toBe(false)
})
