/**
 * Many calls at once, as a process of its own: a Bun process may have only 256 requests open unless its environment said
 * otherwise when it started. Prints how many succeeded. Arguments: address, key, number of calls.
 */
const [address = '', key = '', count = '0'] = process.argv.slice(2)
const body = JSON.stringify({ model: 'gpt-4o-mini', messages: [{ role: 'user', content: 'Hello' }] })

const call = async (): Promise<boolean> => {
  const response = await fetch(`${address}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: `Bearer ${key}` },
    body,
  })
  return response.ok && (await response.text()).includes('chat.completion')
}
const outcomes = await Promise.all(Array.from({ length: Number(count) }, call))
console.log(outcomes.filter(Boolean).length)

export {}
