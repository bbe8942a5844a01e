/** A `.env` file is read as people write it. */
import { expect, test } from 'bun:test'
import { parseDotenv, unreadLines } from '../../src/lib/dotenv.ts'

test('names, quotes, comments, exports and line ends', () => {
  const text = [
    '\uFEFF# a comment',
    'PLAIN=value',
    '  SPACED =  two words  # not this',
    'export EXPORTED=yes',
    'EMPTY=',
    'HASH=a#b',
    `SINGLE='a # b \${PLAIN} \\n'`,
    'DOUBLE="line\\none \\"quoted\\" # kept"',
    'DSN=root:p@ss=w#rd@tcp(db:3306)/name?a=b',
    'TWICE=1',
    'TWICE=2',
    'not a line',
    '1BAD=x',
    'LAST=end',
  ].join('\r\n')
  expect(parseDotenv(text)).toEqual({
    PLAIN: 'value',
    SPACED: 'two words',
    EXPORTED: 'yes',
    EMPTY: '',
    HASH: 'a#b',
    SINGLE: `a # b \${PLAIN} \\n`,
    DOUBLE: 'line\none "quoted" # kept',
    DSN: 'root:p@ss=w#rd@tcp(db:3306)/name?a=b',
    TWICE: '2',
    LAST: 'end',
  })
})

test('a value of several lines in double quotes, and references to the environment before the file', () => {
  const text = `A=file\nB="first\nsecond"\nC=\${A}-\${OUTER}-\${NOWHERE}`
  expect(parseDotenv(text, { OUTER: 'outer', A: 'environment' })).toEqual({
    A: 'file',
    B: 'first\nsecond',
    C: 'environment-outer-',
  })
})

test('lines that say nothing are told by their numbers', () => {
  const text = '# ok\nA=1\nPORT 3902\n\nB="two\nlines"\n=foo\nSYNC_FREQUENCY: 30\nC="unclosed\n'
  expect(unreadLines(text)).toEqual([3, 7, 8])
})
