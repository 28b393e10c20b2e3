/** A line of a simulated world's log for people: the time, who, what, and the facts without their punctuation. */
export function readable(line: string): string {
  const match = /^(\S+) (\S+) (.*?) (\{.*\})$/.exec(line);
  if (match === null) return line;
  const [, time = '', level = '', message = '', json = '{}'] = match;
  const { process, ...fields } = JSON.parse(json) as Record<string, unknown>;
  const who = typeof process === 'string' ? process : '-';
  const facts = Object.entries(fields).map(([name, value]) => `${name}=${shown(value)}`);
  const mark = level === 'error' || level === 'warn' ? `${level.toUpperCase()}: ` : '';
  return `${time.padStart(11)} ms  ${who.padEnd(4)}  ${[mark + message, ...facts].join('  ')}`;
}

const VALUE_LENGTH_MAX = 120;

function shown(value: unknown): string {
  const text = typeof value === 'string' && /^[\w./:-]+$/.test(value) ? value : JSON.stringify(value);
  return text.length > VALUE_LENGTH_MAX ? `${text.slice(0, VALUE_LENGTH_MAX)}…` : text;
}
