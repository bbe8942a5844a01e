import { expect, test } from 'bun:test'
import { freeBody } from '../../src/relay/read.ts'
import { type Upload, uploadOf } from '../../src/relay/upload.ts'

const read = async (upload: Upload): Promise<Buffer> => Buffer.concat(await Array.fromAsync(upload.pieces()))

test('parts of any size come as one body of the announced length', async () => {
  const parts = [0, 1, 262_143, 262_144, 262_145, 600_000].map((size) => new Uint8Array(size).fill(size % 251))
  const upload = uploadOf(parts, { count: 0 })
  const whole = await read(upload)
  expect(whole.equals(Buffer.concat(parts))).toBeTrue()
  expect(whole.length).toBe(upload.length)
})

test('a text is cut between characters', async () => {
  for (let offset = 0; offset < 4; offset++) {
    const text = 'x'.repeat(262_141 + offset) + '🎉é狐'.repeat(100_000)
    const upload = uploadOf([text])
    const whole = await read(upload)
    expect(whole.toString()).toBe(text)
    expect(whole.length).toBe(upload.length)
  }
})

test('bytes are given back only when nobody reads them, and are not sent half after that', async () => {
  const bytes = new Uint8Array(1_000_000)
  const readers = { count: 0 }
  const pieces = uploadOf([bytes], readers).pieces()
  await pieces.next()
  freeBody({ bytes, readers })
  expect(bytes.length).toBe(1_000_000)
  await pieces.return(undefined)
  const late = uploadOf([bytes], readers)
  freeBody({ bytes, readers })
  expect(bytes.length).toBe(0)
  await expect(read(late)).rejects.toThrow()
})
