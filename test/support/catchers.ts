/** Where alerts go in tests: a webhook, and a mail server that takes every mail and keeps it. */
import { createServer, type Socket } from 'node:net'

export interface CaughtAlert {
  readonly kind: string
  readonly key: string
  readonly text: string
  readonly node: string
  readonly status: 'firing' | 'resolved'
  readonly signature: string
  /** As it came, for the signature. */
  readonly body: string
}

export function catchWebhooks() {
  const caught: CaughtAlert[] = []
  const server = Bun.serve({
    hostname: '127.0.0.1',
    port: 0,
    async fetch(request) {
      const body = await request.text()
      caught.push({
        ...(JSON.parse(body) as CaughtAlert),
        signature: request.headers.get('x-headgate-signature') ?? '',
        body,
      })
      return new Response('ok')
    },
  })
  return {
    url: `http://127.0.0.1:${server.port}/alerts`,
    caught: (kind: string): readonly CaughtAlert[] =>
      caught.filter((alert) => alert.kind === kind && alert.status === 'firing'),
    resolved: (kind: string): readonly CaughtAlert[] =>
      caught.filter((alert) => alert.kind === kind && alert.status === 'resolved'),
    close: () => server.stop(true),
  }
}

/** The least of SMTP. @source https://www.rfc-editor.org/rfc/rfc5321 */
export async function catchMail() {
  const mails: string[] = []
  const sockets = new Set<Socket>()
  const server = createServer((socket) => {
    sockets.add(socket)
    let data: string | undefined
    let rest = ''
    const say = (line: string) => socket.write(`${line}\r\n`)
    const take = (line: string): void => {
      if (data !== undefined) {
        if (line !== '.') data += `${line}\n`
        else {
          mails.push(data)
          data = undefined
          say('250 kept')
        }
        return
      }
      const verb = line.slice(0, 4).toUpperCase()
      if (verb === 'DATA') {
        data = ''
        say('354 go on')
      } else if (verb === 'QUIT') {
        say('221 bye')
        socket.end()
      } else say('250 ok')
    }
    socket.on('data', (bytes) => {
      const lines = (rest + bytes.toString('utf8')).split('\r\n')
      rest = lines.pop() ?? ''
      lines.forEach(take)
    })
    socket.on('error', () => undefined)
    socket.on('close', () => sockets.delete(socket))
    say('220 catcher')
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    port: (server.address() as { port: number }).port,
    /** Whole mails with their headers, those whose subject has this word. */
    caught: (word: string): readonly string[] =>
      mails.filter((mail) => new RegExp(`^Subject: (?!.*resolved).*${word}`, 'm').test(mail)),
    close() {
      for (const socket of sockets) socket.destroy()
      server.close()
    },
  }
}
