/**
 * The `.env` file format: `NAME=value` lines, `#` comments, optional `export`. Single quotes keep a value as it is; double
 * quotes allow `\n`, `\t`, `\"`, `\\` and line breaks; outside single quotes `${NAME}` stands for another variable.
 */

const LINE =
  /^[ \t]*(?:export[ \t]+)?([A-Za-z_][\w.-]*)[ \t]*=[ \t]*(?:'([^']*)'|"((?:\\[\s\S]|[^"\\])*)"|([^\r\n]*?))[ \t]*(?:[ \t]#[^\r\n]*)?$/gm

/**
 * @param outer variables that `${NAME}` may refer to, before those of the file
 * @returns the variables in the order of the file; a name given twice has its last value
 */
export function parseDotenv(
  text: string,
  outer: Readonly<Record<string, string | undefined>> = {},
): Record<string, string> {
  const values: Record<string, string> = {}
  const expand = (raw: string): string =>
    raw.replace(/\$\{(\w+)\}/g, (_, name: string) => outer[name] ?? values[name] ?? '')
  for (const [, name, single, double, bare] of text.replace(/^\uFEFF/, '').matchAll(LINE)) {
    if (single !== undefined) values[name!] = single
    else if (double !== undefined)
      values[name!] = expand(double.replace(/\\([\s\S])/g, (_, char: string) => ESCAPES[char] ?? char))
    else values[name!] = expand(bare!.startsWith('#') ? '' : bare!)
  }
  return values
}

/** @returns the numbers, from 1, of lines that are neither blank, nor a comment, nor part of a variable */
export function unreadLines(text: string): readonly number[] {
  const rest = text.replace(/^\uFEFF/, '').replace(LINE, (found) => found.replace(/[^\n]/g, ''))
  return rest.split('\n').flatMap((line, index) => (/^\s*(#|$)/.test(line) ? [] : [index + 1]))
}

const ESCAPES: Readonly<Record<string, string>> = { n: '\n', r: '\r', t: '\t' }
