import type { Row } from './windows.js';

/**
 * Nemesis by workload, as Markdown with columns that line up. A cell is `ok / fail / unknown, longest`: operations that began in the
 * faults of that name by outcome, and the longest unavailability in ms.
 */
export function table(rows: readonly Row[]): string {
  const workloads = [...new Set(rows.map(({ workload }) => workload))];
  const nemeses = [...new Set(rows.map(({ nemesis }) => nemesis))];
  const lines = nemeses.map((nemesis) => {
    const own = rows.filter((row) => row.nemesis === nemesis);
    return [nemesis, String(own[0]?.faults ?? 0), ...workloads.map((name) => cell(own.find(({ workload }) => workload === name)))];
  });
  const head = ['nemesis', 'faults', ...workloads];
  const widths = head.map((title, column) => Math.max(title.length, ...lines.map((line) => line[column]?.length ?? 0)));
  const format = (cells: readonly string[]): string => {
    return `| ${cells.map((each, column) => (column === 0 ? each.padEnd(widths[column] ?? 0) : each.padStart(widths[column] ?? 0))).join(' | ')} |`;
  };
  const rule = widths.map((width, column) => (column === 0 ? '-'.repeat(width) : `${'-'.repeat(width - 1)}:`));
  return [format(head), format(rule), ...lines.map(format)].join('\n');
}

function cell(row: Row | undefined): string {
  if (row === undefined) return '';
  const { ok, fail, info } = row.outcomes;
  return `${ok} / ${fail} / ${info}, ${Math.round(row.unavailableMs)}`;
}
