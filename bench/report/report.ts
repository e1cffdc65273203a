/** The report: one HTML file that needs nothing else, the cells that deltahop loses on top. */
import type { Cell } from '../cells.js';
import type { LinkCheck } from '../link-check.js';
import { type Comparison, compare, geometricMean, lostIn, type Measure, measured, type Row } from '../rows.js';
import { escaped, ratioChart, ratioText, type Series, stackChart } from './charts.js';
import { style } from './style.js';

/** What the report is made of. */
export interface ReportParts {
  rows: readonly Row[];
  cells: readonly Cell[];
  /** Names of the links, in the order of the columns. */
  links: readonly string[];
  linkChecks: readonly LinkCheck[];
  leftOut: readonly string[];
  /** Versions, machine and time, a line each. */
  circumstances: readonly string[];
}

const measureNames: Record<Measure, string> = {
  bytes: 'bytes on the link',
  wallMs: 'time to durable',
  cpuMs: 'CPU time',
  peakRssBytes: 'memory',
};
const settingColours = ['#2563eb', '#0d9488', '#9333ea', '#d97706'];
const linkColours = ['#64748b', '#0d9488', '#2563eb', '#9333ea'];
/** Steps of the ladder (design 4.1), by the figure of the receiver or the sender that counts them. */
const steps: readonly [figure: string, name: string, colour: string][] = [
  ['identityBytes', 'same by identity', '#0f766e'],
  ['sharedMatchedBytes', 'in the shared basis', '#14b8a6'],
  ['matchedBytes', 'matched', '#60a5fa'],
  ['zeroBytes', 'zeros and holes', '#cbd5e1'],
  ['residualBytes', 'residual', '#f59e0b'],
  ['literalBytes', 'literal', '#dc2626'],
];
const stageColours = [
  '#1d4ed8',
  '#60a5fa',
  '#0d9488',
  '#5eead4',
  '#7c3aed',
  '#c4b5fd',
  '#b45309',
  '#fcd34d',
  '#be123c',
  '#fda4af',
];
const restColour = '#cbd5e1';

/** The whole file. */
export function reportHtml({ rows, cells, links, linkChecks, leftOut, circumstances }: ReportParts): string {
  const comparisons = compare(rows);
  const present = cells.filter((cell) => rows.some((row) => row.cell === cell.name));
  const columns = links.filter((link) => rows.some((row) => row.link === link));
  const settings = [...new Set(comparisons.map(({ setting }) => setting))];
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>deltahop against rsync</title>
<style>${style}</style>
</head>
<body>
<header>
<h1>deltahop against stock rsync</h1>
<p>${circumstances.map(escaped).join(' · ')}</p>
</header>
<p class="lead">A ratio is the figure of rsync's best setting for that very cell, link and measure over deltahop's:
<span class="win">above 1 deltahop is better</span>, <span class="loss">below 1 rsync is</span>.</p>
${tiles(comparisons, settings)}
<h2>Where deltahop loses</h2>
${losses(comparisons)}
<h2>Ratios, cell by cell</h2>
${(['bytes', 'wallMs', 'cpuMs'] as const).map((measure) => heatTable(measure, comparisons, present, columns, settings)).join('\n')}
<h2>Time to durable by link</h2>
${settings.map((setting) => timeChart(setting, comparisons, present, columns)).join('\n')}
<h2>Bytes by setting</h2>
${bytesChart(comparisons, present, columns, settings)}
<h2>What settled the bytes: the steps of the ladder</h2>
<p>Shares of each tree or file, ${escaped(columns[0] ?? '')} link.</p>
${ladderChart(rows, present, columns[0])}
<h2>Where the time goes</h2>
<p>What each side's engine says of its own stages, ${escaped(columns[0] ?? '')} link. Stages of the two sides overlap, so bars may be longer than the transfer took.</p>
${stageChart(rows, present, columns[0])}
<h2>The links, checked</h2>
${linkTable(linkChecks)}
${leftOut.length === 0 ? '' : `<h2>Left out</h2>\n<ul>${leftOut.map((line) => `<li>${escaped(line)}</li>`).join('')}</ul>`}
<h2>All rows</h2>
${present.map((cell) => rowTable(cell, rows)).join('\n')}
</body>
</html>
`;
}

function tiles(comparisons: readonly Comparison[], settings: readonly string[]): string {
  const lost = comparisons.filter((comparison) => lostIn(comparison).length > 0).length;
  const one = (title: string, figure: string, note: string): string =>
    `<div class="tile"><div class="figure">${figure}</div><div>${escaped(title)}</div><small>${escaped(note)}</small></div>`;
  const means = settings.flatMap((setting) =>
    (['bytes', 'wallMs', 'cpuMs'] as const).map((measure) => {
      const ratios = comparisons.filter((c) => c.setting === setting).flatMap(({ ratios }) => ratios[measure] ?? []);
      const figure =
        ratios.length === 0
          ? '–'
          : `<span class="${tone(geometricMean(ratios))}">${ratioText(geometricMean(ratios))}</span>`;
      return one(`${measureNames[measure]}, ${setting}`, figure, `geometric mean of ${ratios.length}`);
    }),
  );
  return `<div class="tiles">${means.join('')}${one('comparisons lost in something', `${lost} of ${comparisons.length}`, 'bytes beyond 2 %, time or CPU beyond 5 %')}</div>`;
}

/** One line for each cell and setting: where it is lost the most, measure by measure. */
function losses(comparisons: readonly Comparison[]): string {
  const groups = new Map<string, Comparison[]>();
  for (const comparison of comparisons) {
    if (lostIn(comparison).length === 0) continue;
    const key = `${comparison.cell}\n${comparison.setting}`;
    groups.set(key, [...(groups.get(key) ?? []), comparison]);
  }
  if (groups.size === 0) return '<p>Nowhere in this run.</p>';
  const lines = [...groups.values()]
    .toSorted((a, b) => worstRatio(a) - worstRatio(b))
    .map((group) => {
      const { cell, setting } = group[0] as Comparison;
      const failed = group.find(({ ours }) => !ours.ok);
      const fields =
        failed === undefined
          ? lossMeasures.map((measure) => lossField(group, measure)).join('')
          : `<td colspan="3" class="loss">${escaped(failed.link)}: ${escaped(failed.ours.note)}</td>`;
      return `<tr><td>${escaped(cell)}</td><td>${escaped(setting)}</td>${fields}</tr>`;
    });
  return `<p>The worst link of each; bytes count as lost beyond 2 %, time and CPU beyond 5 %.</p>
<table class="losses"><thead><tr><th>cell</th><th>setting</th>${lossMeasures.map((measure) => `<th>${measureNames[measure]}</th>`).join('')}</tr></thead>
<tbody>${lines.join('\n')}</tbody></table>`;
}

const lossMeasures = ['bytes', 'wallMs', 'cpuMs'] as const;

function worstRatio(group: readonly Comparison[]): number {
  return Math.min(
    ...group.flatMap(({ ours, ratios }) => (ours.ok ? lossMeasures.map((measure) => ratios[measure] ?? 1) : 0)),
  );
}

function lossField(group: readonly Comparison[], measure: Measure): string {
  const worst = group
    .filter((comparison) => lostIn(comparison).includes(measure))
    .toSorted((a, b) => (a.ratios[measure] ?? 0) - (b.ratios[measure] ?? 0))[0];
  const peer = worst?.peers[measure];
  if (worst === undefined || peer === undefined) return '<td class="none">–</td>';
  return `<td><span class="loss">${ratioText(worst.ratios[measure] ?? 0)}</span> ${valueText(worst.ours, measure)} against ${valueText(peer, measure)}
<small>${escaped(peer.setting)}, ${escaped(worst.link)}</small></td>`;
}

/** Cells down, links across, one figure a setting; colours by how much. */
function heatTable(
  measure: Measure,
  comparisons: readonly Comparison[],
  cells: readonly Cell[],
  links: readonly string[],
  settings: readonly string[],
): string {
  const lines = cells.map((cell) => {
    const fields = links.flatMap((link) =>
      settings.map((setting) => {
        const found = comparisons.find((c) => c.cell === cell.name && c.link === link && c.setting === setting);
        if (found === undefined) return '<td class="none"></td>';
        if (!found.ours.ok)
          return `<td class="number" style="background:#fecaca" title="${escaped(found.ours.note)}">failed</td>`;
        const ratio = found.ratios[measure];
        return ratio === undefined
          ? '<td class="none">no peer</td>'
          : `<td class="number" style="background:${shade(ratio)}">${ratioText(ratio)}</td>`;
      }),
    );
    return `<tr><th title="${escaped(cell.about)}">${escaped(cell.name)}</th>${fields.join('')}</tr>`;
  });
  const heads = links.map((link) => `<th colspan="${settings.length}">${escaped(link)}</th>`).join('');
  const subheads = links
    .map(() => settings.map((setting) => `<th><small>${escaped(setting)}</small></th>`).join(''))
    .join('');
  return `<h3>${measureNames[measure]}</h3>
<table class="heat"><thead><tr><th></th>${heads}</tr><tr><th></th>${subheads}</tr></thead><tbody>${lines.join('\n')}</tbody></table>`;
}

function timeChart(
  setting: string,
  comparisons: readonly Comparison[],
  cells: readonly Cell[],
  links: readonly string[],
): string {
  const series: Series[] = links.map((link, index) => ({
    name: link,
    colour: linkColours[index % linkColours.length] ?? restColour,
    values: cells.map((cell) => ratioAt(comparisons, cell, link, setting, 'wallMs')),
  }));
  return `<h3>${escaped(setting)}</h3>\n${ratioChart(
    cells.map(({ name }) => name),
    series,
  )}`;
}

function bytesChart(
  comparisons: readonly Comparison[],
  cells: readonly Cell[],
  links: readonly string[],
  settings: readonly string[],
): string {
  const link = links.at(-1) ?? '';
  const series: Series[] = settings.map((setting, index) => ({
    name: setting,
    colour: settingColours[index % settingColours.length] ?? restColour,
    values: cells.map((cell) => ratioAt(comparisons, cell, link, setting, 'bytes')),
  }));
  return `<p>${escaped(link)} link; other links differ by little.</p>\n${ratioChart(
    cells.map(({ name }) => name),
    series,
  )}`;
}

function ratioAt(
  comparisons: readonly Comparison[],
  cell: Cell,
  link: string,
  setting: string,
  measure: Measure,
): number | null {
  return (
    comparisons.find((c) => c.cell === cell.name && c.link === link && c.setting === setting)?.ratios[measure] ?? null
  );
}

/** Our rows on one link, one for each cell and setting, with the label that they have in a chart. */
function ourRows(
  rows: readonly Row[],
  cells: readonly Cell[],
  link: string | undefined,
): { label: string; row: Row }[] {
  return cells.flatMap((cell) =>
    rows
      .filter((row) => row.contender === 'deltahop' && row.ok && row.cell === cell.name && row.link === link)
      .map((row) => ({ label: row.setting === 'blind' ? cell.name : `${cell.name}, ${row.setting}`, row })),
  );
}

function ladderChart(rows: readonly Row[], cells: readonly Cell[], link: string | undefined): string {
  const ours = ourRows(rows, cells, link).filter(({ row }) => (row.statistics.sender['totalBytes'] ?? 0) > 0);
  const shares = ours.map(({ row: { statistics } }) => {
    const of = (figure: string): number => statistics.sender[figure] ?? 0;
    const total = of('totalBytes');
    const known = steps.map(([figure]) => (100 * of(figure)) / total);
    const rest = Math.max(0, 100 - known.reduce((sum, share) => sum + share, 0));
    return [...known, rest];
  });
  const names: [string, string][] = [
    ...steps.map(([, name, colour]): [string, string] => [name, colour]),
    ['unchanged file', '#e2e8f0'],
  ];
  const series = names.map(([name, colour], index) => ({
    name,
    colour,
    values: shares.map((share) => share[index] ?? 0),
  }));
  return stackChart(
    ours.map(({ label }) => label),
    series.filter(({ values }) => values.some((value) => value > 0)),
    (value) => `${value} %`,
    100,
  );
}

function stageChart(rows: readonly Row[], cells: readonly Cell[], link: string | undefined): string {
  const ours = ourRows(rows, cells, link);
  const figures = (['sender', 'receiver'] as const).flatMap((side) =>
    [
      ...new Set(ours.flatMap(({ row }) => Object.keys(row.statistics[side]).filter((name) => name.endsWith('Ms')))),
    ].map((name) => ({ side, name })),
  );
  const series = figures.map(({ side, name }, index) => ({
    name: `${side} ${name.slice(0, -2)}`,
    colour: stageColours[index % stageColours.length] ?? restColour,
    values: ours.map(({ row }) => row.statistics[side][name] ?? 0),
  }));
  return stackChart(
    ours.map(({ label }) => label),
    series,
    (value) => `${value / 1000} s`,
  );
}

function linkTable(checks: readonly LinkCheck[]): string {
  const rate = (bps: number): string => `${(bps / 1e6).toPrecision(4)} Mbit/s`;
  const lines = checks.map(
    ({ link, wantedBps, outBps, inBps, wantedRoundTripMs, roundTripMs }) =>
      `<tr><td>${escaped(link)}</td><td class="number">${wantedBps === null ? '–' : rate(wantedBps)}</td><td class="number">${rate(outBps)}</td>
<td class="number">${rate(inBps)}</td><td class="number">${wantedRoundTripMs === null ? '–' : `${wantedRoundTripMs} ms`}</td><td class="number">${roundTripMs.toFixed(2)} ms</td></tr>`,
  );
  return `<p>Plain TCP between two small programs in the places of client and server; rates are of payload (headers take 3.6 %).</p>
<table><thead><tr><th>link</th><th>rate set</th><th>client to server</th><th>server to client</th><th>round trip set</th><th>measured</th></tr></thead>
<tbody>${lines.join('\n')}</tbody></table>`;
}

function rowTable(cell: Cell, rows: readonly Row[]): string {
  const lines = rows
    .filter((row) => row.cell === cell.name)
    .map((row) => {
      const [least, most] = row.spread.wallMs;
      return `<tr${row.contender === 'deltahop' ? ' class="ours"' : ''}><td>${escaped(row.link)}</td><td>${row.contender}</td><td>${escaped(row.setting)}</td>
<td class="number">${seconds(row.wallMs)} <small>${seconds(least)}–${seconds(most)}</small></td><td class="number">${seconds(row.exitMs)}</td><td class="number">${bytesText(row.bytesOut)}</td><td class="number">${bytesText(row.bytesIn)}</td>
<td class="number">${seconds(row.cpuClientMs)}</td><td class="number">${seconds(row.cpuServerMs)}</td><td class="number">${bytesText(row.peakRssBytes)}</td><td class="number">${row.trials}</td><td>${row.ok ? '' : `<span class="loss">${escaped(row.note)}</span>`}</td></tr>`;
    });
  return `<details><summary>${escaped(cell.name)}: ${escaped(cell.about)}</summary>
<table><thead><tr><th>link</th><th></th><th>setting</th><th>time to durable</th><th>to exit</th><th>out</th><th>in</th><th>CPU client</th><th>CPU server</th><th>memory</th><th>trials</th><th></th></tr></thead>
<tbody>${lines.join('\n')}</tbody></table></details>`;
}

function valueText(row: Row, measure: Measure): string {
  return measure === 'bytes' || measure === 'peakRssBytes'
    ? bytesText(measured(row, measure))
    : seconds(measured(row, measure));
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
}

function bytesText(bytes: number): string {
  if (bytes < 1000) return `${bytes} B`;
  const [unit, name] = bytes < 1e6 ? [1e3, 'kB'] : bytes < 1e9 ? [1e6, 'MB'] : [1e9, 'GB'];
  return `${(bytes / unit).toPrecision(3)} ${name}`;
}

function tone(ratio: number): string {
  return ratio >= 1 ? 'win' : 'loss';
}

/** Green to the right of 1 and red to the left, fuller the further away, full at 10 and at a quarter. */
function shade(ratio: number): string {
  const strength = ratio >= 1 ? Math.min(1, Math.log10(ratio)) : Math.min(1, Math.log(1 / ratio) / Math.log(4));
  if (Math.abs(ratio - 1) <= 0.02) return '#f1f5f9';
  return ratio >= 1
    ? `rgba(13,148,136,${(0.12 + 0.55 * strength).toFixed(2)})`
    : `rgba(220,38,38,${(0.15 + 0.55 * strength).toFixed(2)})`;
}
