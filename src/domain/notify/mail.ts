/** Sends mail by the server that the options name. */
import type { Options } from '../options/index.ts'

export interface Mail {
  readonly to: readonly string[]
  readonly subject: string
  readonly text: string
}

export interface Mailer {
  /** Is there a mail server? */
  isSet(): boolean
  /** @throws Error with what the mail server said */
  send(mail: Mail): Promise<void>
}

const TIMEOUT_MS = 10_000

export function createMailer(options: Pick<Options, 'get'>): Mailer {
  const { get } = options
  return {
    isSet: () => get('SMTPServer') !== '',
    async send({ to, subject, text }) {
      // Few nodes ever send one, and it takes long to load.
      const { createTransport } = await import('nodemailer')
      const account = get('SMTPAccount')
      const transport = createTransport({
        host: get('SMTPServer'),
        port: get('SMTPPort'),
        // Port 465 speaks TLS from its first byte, whatever the option says.
        secure: get('SMTPSSLEnabled') || get('SMTPPort') === 465,
        requireTLS: get('SMTPStartTLSEnabled'),
        tls: { rejectUnauthorized: !get('SMTPInsecureSkipVerify') },
        ...(account !== '' && { auth: { user: account, pass: get('SMTPToken') } }),
        ...(get('SMTPForceAuthLogin') && { authMethod: 'LOGIN' }),
        connectionTimeout: TIMEOUT_MS,
        greetingTimeout: TIMEOUT_MS,
        socketTimeout: TIMEOUT_MS,
      })
      try {
        await transport.sendMail({
          from: { name: get('SystemName'), address: get('SMTPFrom') || account },
          to: [...to],
          subject,
          text,
        })
      } finally {
        transport.close()
      }
    },
  }
}
