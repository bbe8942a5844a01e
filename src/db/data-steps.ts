/**
 * Numbered changes of data that a database needs once, each safe to run again. They add and complete; what a database
 * that is taken over holds stays as it is. A step is never changed or renumbered after a release.
 */
import { eq, inArray, isNull, lt, or } from 'drizzle-orm'
import type { Db } from './db.ts'

export interface DataStep {
  readonly step: number
  readonly name: string
  run(tx: Db, context: { readonly nowMs: number; readonly version: string }): Promise<void>
}

const ROOT = 100

export const DATA_STEPS: readonly DataStep[] = [
  {
    step: 1,
    name: 'the cluster has an id',
    async run(tx) {
      await tx.insertIgnore(tx.tables.clusterMeta, { key: 'cluster_id', value: crypto.randomUUID() })
    },
  },
  {
    step: 2,
    name: 'users have an authentication version of at least 1',
    async run(tx) {
      const { users } = tx.tables
      await tx
        .update(users)
        .set({ authVersion: 1 })
        .where(or(isNull(users.authVersion), lt(users.authVersion, 1)))
    },
  },
  {
    step: 3,
    name: 'a system with a root user counts as set up',
    async run(tx, { nowMs, version }) {
      const { setups, users } = tx.tables
      const [done] = await tx.select({ id: setups.id }).from(setups).limit(1)
      if (done) return
      const [root] = await tx.select({ id: users.id }).from(users).where(eq(users.role, ROOT)).limit(1)
      if (root) await tx.insertId(setups, { version, initializedAt: Math.floor(nowMs / 1_000) })
    },
  },
  {
    step: 4,
    name: 'console panels under their present names',
    async run(tx) {
      const { options } = tx.tables
      const old = ['ApiInfo', 'Announcements', 'FAQ', 'UptimeKumaUrl', 'UptimeKumaSlug']
      const rows = await tx.select().from(options).where(inArray(options.key, old))
      // A database may find `faq` for `FAQ`: only the exact name counts. The old rows stay; nothing reads them.
      const value = new Map(rows.map((row) => [row.key, row.value ?? '']))
      const fresh = [
        { key: 'console_setting.api_info', value: value.get('ApiInfo') },
        { key: 'console_setting.announcements', value: value.get('Announcements') },
        { key: 'console_setting.faq', value: faqOf(value.get('FAQ')) },
        {
          key: 'console_setting.uptime_kuma_groups',
          value: uptimeOf(value.get('UptimeKumaUrl'), value.get('UptimeKumaSlug')),
        },
      ]
      for (const row of fresh) if (row.value) await tx.insertIgnore(options, row)
    },
  },
]

const FAQ_MAX = 50

/** `[{title, content}]` → `[{question, answer}]`; nothing for what is not such a list. */
function faqOf(text: string | undefined): string | undefined {
  const entries = parsed(text)
  if (!Array.isArray(entries) || entries.length === 0) return undefined
  return JSON.stringify(
    entries.slice(0, FAQ_MAX).map((entry: Readonly<Record<string, unknown>> | null) => ({
      question: entry?.['question'] ?? entry?.['title'] ?? '',
      answer: entry?.['answer'] ?? entry?.['content'] ?? '',
    })),
  )
}

function uptimeOf(url: string | undefined, slug: string | undefined): string | undefined {
  return url && slug ? JSON.stringify([{ id: 1, categoryName: 'old', url, slug, description: '' }]) : undefined
}

function parsed(text: string | undefined): unknown {
  try {
    return JSON.parse(text ?? '')
  } catch {
    return undefined
  }
}
