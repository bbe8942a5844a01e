/**
 * What all nodes must have alike (`SESSION_SECRET`, `CRYPTO_SECRET`, `LEDGER_LEASE`), as fingerprints that can be stored
 * and compared: no secret leaves the node. Derives them from the configuration and reads and writes what the cluster
 * agreed on; what follows from a difference is `agreement.ts`.
 */
import { randomBytes } from 'node:crypto'
import { eq, inArray } from 'drizzle-orm'
import { bumpTopic, type Db } from '../../db/index.ts'
import { createKeyring, type Keyring } from '../../lib/sealed-text.ts'
import { fingerprintOf, keyOf, rootOf } from '../../lib/secret-key.ts'
import { WORKING_STATES } from './instances.ts'

export const ALIKE = ['SESSION_SECRET', 'CRYPTO_SECRET', 'LEDGER_LEASE'] as const
export type Alike = (typeof ALIKE)[number]

/** Of each variable the values this node accepts: its own first, then the one before it. */
export type Fingerprints = Readonly<Record<Alike, readonly string[]>>

/** Of each variable the value the cluster agreed on; a release that knew fewer of them leaves some out. */
export type Agreed = Readonly<Partial<Record<Alike, string>>>

/** Texts, the current one first; of a secret that has no previous one just that. */
export interface ConfiguredSecrets {
  readonly session: readonly string[]
  readonly crypto: readonly string[]
  readonly ledgerLeaseSec: number
}

export interface OwnSecrets {
  readonly fingerprints: Fingerprints
  /** Opens and seals upstream keys. */
  readonly keyring: Keyring
}

/** Topic that tells of a change of what was agreed. */
export const SECRETS_TOPIC = 'secrets'

const SALT_KEY = 'secret_salt'
const AGREED_KEY = 'fingerprints'
const SALT_BYTES = 16
const KEY_ID_LENGTH = 8

/** The salt of this cluster's fingerprints, made by the first node that asks. */
export async function openSalt(db: Db): Promise<string> {
  await db.insertIgnore(db.tables.clusterMeta, { key: SALT_KEY, value: randomBytes(SALT_BYTES).toString('hex') })
  const salt = await readSalt(db)
  if (salt === undefined) throw new Error('the salt of fingerprints vanished from the database')
  return salt
}

/** @returns undefined before the first node has joined */
export const readSalt = (db: Db): Promise<string | undefined> => readMeta(db, SALT_KEY)

/** About 50 ms for each secret. */
export async function deriveSecrets(configured: ConfiguredSecrets, salt: string): Promise<OwnSecrets> {
  const texts = [...new Set([...configured.session, ...configured.crypto])]
  const roots = new Map(await Promise.all(texts.map(async (text) => [text, await rootOf(text, salt)] as const)))
  const fingerprints = (secrets: readonly string[], name: Alike): readonly string[] =>
    secrets.map((secret) => fingerprintOf(roots.get(secret)!, name))
  const crypto = fingerprints(configured.crypto, 'CRYPTO_SECRET')
  return {
    fingerprints: {
      SESSION_SECRET: fingerprints(configured.session, 'SESSION_SECRET'),
      CRYPTO_SECRET: crypto,
      LEDGER_LEASE: [String(configured.ledgerLeaseSec)],
    },
    keyring: createKeyring(
      configured.crypto.map((secret, index) => ({
        id: keyIdOf(crypto[index]!),
        key: keyOf(roots.get(secret)!, 'channels.key'),
      })),
      'channels.key',
    ),
  }
}

/** Texts sealed with a secret name it by the beginning of its fingerprint. */
const keyIdOf = (cryptoFingerprint: string): string => cryptoFingerprint.slice(0, KEY_ID_LENGTH)

/** @returns undefined before the first node has joined */
export async function readAgreed(db: Db): Promise<Agreed | undefined> {
  const text = await readMeta(db, AGREED_KEY)
  return text === undefined ? undefined : parseAgreed(text)
}

/** Of several first nodes one decides: the primary key lets only one row through. @returns what is agreed now */
export async function openAgreed(db: Db, own: Fingerprints): Promise<Agreed> {
  const value = JSON.stringify(Object.fromEntries(ALIKE.map((name) => [name, own[name][0]])))
  await db.insertIgnore(db.tables.clusterMeta, { key: AGREED_KEY, value })
  return (await readAgreed(db)) ?? {}
}

/**
 * Puts other values in place, unless somebody else changed them meanwhile.
 * @param decide looks once more, within the transaction that holds the row
 * @returns whether it was done
 */
export function replaceAgreed(
  db: Db,
  from: Agreed,
  change: Agreed,
  decide: (tx: Db) => Promise<boolean> = async () => true,
): Promise<boolean> {
  const { clusterMeta } = db.tables
  return db.transaction(async (tx) => {
    const [row] = await tx.lock(tx.select().from(clusterMeta).where(eq(clusterMeta.key, AGREED_KEY)))
    const now = row && parseAgreed(row.value)
    if (!now || ALIKE.some((name) => now[name] !== from[name]) || !(await decide(tx))) return false
    const value = JSON.stringify({ ...now, ...change })
    await tx.update(clusterMeta).set({ value }).where(eq(clusterMeta.key, AGREED_KEY))
    await bumpTopic(tx, SECRETS_TOPIC)
    return true
  })
}

/** @returns the variables of which this node accepts another value than the cluster has */
export const differingFrom = (agreed: Agreed, own: Fingerprints): readonly Alike[] =>
  ALIKE.filter((name) => {
    const value = agreed[name]
    return value !== undefined && !own[name].includes(value)
  })

/** A working instance, as far as secrets go. */
export interface Peer {
  readonly id: string
  readonly node: string
  readonly nodeId: string | undefined
  readonly beat: number
  /** Absent for a release that does not tell them. */
  readonly fingerprints: Partial<Fingerprints> | undefined
}

/** Instances that have not ended, as far as anybody knows. */
export async function readPeers(db: Db): Promise<readonly Peer[]> {
  const { clusterInstances: t } = db.tables
  const rows = await db
    .select({ id: t.id, node: t.node, beat: t.beat, info: t.info })
    .from(t)
    .where(inArray(t.state, [...WORKING_STATES]))
  return rows.map(({ info, ...row }) => ({ ...row, ...readSecretInfo(info) }))
}

/** What an instance tells in its row, under these names. */
export const secretInfo = (nodeId: string, own: Fingerprints): Readonly<Record<string, unknown>> => ({
  nodeId,
  fingerprints: own,
})

function readSecretInfo(text: string | null): Pick<Peer, 'nodeId' | 'fingerprints'> {
  const { nodeId, fingerprints } = parseObject(text)
  return {
    nodeId: typeof nodeId === 'string' ? nodeId : undefined,
    fingerprints:
      typeof fingerprints === 'object' && fingerprints !== null ? (fingerprints as Partial<Fingerprints>) : undefined,
  }
}

/** @returns names of the nodes that do not have this secret, not even as the previous one */
export const nodesWithout = (peers: readonly Peer[], name: Alike, fingerprint: string): readonly string[] => [
  ...new Set(peers.filter((peer) => !peer.fingerprints?.[name]?.includes(fingerprint)).map(({ node }) => node)),
]

async function readMeta(db: Db, key: string): Promise<string | undefined> {
  const { clusterMeta } = db.tables
  const [row] = await db.select({ value: clusterMeta.value }).from(clusterMeta).where(eq(clusterMeta.key, key))
  return row?.value
}

const parseAgreed = (text: string): Agreed => parseObject(text) as Agreed

function parseObject(text: string | null): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text ?? '{}')
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {}
  } catch {
    // Written by nobody of ours: it says nothing.
    return {}
  }
}
