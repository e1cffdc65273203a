/** The report's charts: horizontal bars as SVG. */

/** One series of bars: a value for each category; null leaves the place empty. */
export interface Series {
  name: string;
  colour: string;
  values: readonly (number | null)[];
}

const widthPx = 1080;
const labelPx = 215;
const rightPx = 60;
const topPx = 34;
const bottomPx = 24;
const plotPx = widthPx - labelPx - rightPx;

/** Ratios as bars that begin at 1, on a logarithmic scale: to the right deltahop is better, to the left rsync. */
export function ratioChart(categories: readonly string[], series: readonly Series[]): string {
  const barPx = 9;
  const rowPx = 12 + (barPx + 2) * Math.max(1, series.length);
  const logs = series.flatMap(({ values }) => values.filter((value) => value !== null).map(Math.log10));
  // Whole half powers of ten around all that is shown.
  const low = Math.floor(2 * Math.min(-0.1, ...logs)) / 2;
  const high = Math.ceil(2 * Math.max(0.1, ...logs)) / 2;
  const x = (log: number): number => labelPx + ((log - low) / (high - low)) * plotPx;
  const ticks = Array.from({ length: 1 + Math.round(2 * (high - low)) }, (_, index) => low + index / 2);
  const bars = categories.flatMap((_, row) =>
    series.flatMap(({ colour, values }, index) => {
      const value = values[row] ?? null;
      if (value === null) return [];
      const log = Math.log10(value);
      const y = topPx + row * rowPx + 6 + index * (barPx + 2);
      const left = Math.min(x(0), x(log));
      return [
        rectangle(left, y, Math.abs(x(log) - x(0)), barPx, colour),
        words(Math.max(x(0), x(log)) + 4, y + 8, ratioText(value), 'start', 10),
      ];
    }),
  );
  return svg(topPx + rowPx * categories.length + bottomPx, [
    legend(series),
    axis(
      ticks.map((log): [number, string] => [x(log), ratioText(10 ** log)]),
      topPx + rowPx * categories.length,
    ),
    labels(categories, rowPx),
    ...bars,
    line(x(0), topPx, topPx + rowPx * categories.length, '#0f172a'),
  ]);
}

/** Parts of a whole as one bar for each category. `unit` says what the axis shows; `max` is where the axis ends. */
export function stackChart(
  categories: readonly string[],
  series: readonly Series[],
  unit: (value: number) => string,
  max?: number,
): string {
  const rowPx = 24;
  const sums = categories.map((_, row) => series.reduce((sum, { values }) => sum + (values[row] ?? 0), 0));
  const step = roundStep((max ?? Math.max(1, ...sums)) / 5);
  const end = max ?? step * Math.ceil(Math.max(1, ...sums) / step);
  const x = (value: number): number => labelPx + (value / end) * plotPx;
  const ticks = Array.from({ length: 1 + Math.floor(end / step + 1e-9) }, (_, index) => index * step);
  const bars = categories.flatMap((_, row) => {
    let from = 0;
    return series.map(({ colour, values }) => {
      const value = values[row] ?? 0;
      const bar = rectangle(x(from), topPx + row * rowPx + 5, (value / end) * plotPx, 14, colour);
      from += value;
      return bar;
    });
  });
  return svg(topPx + rowPx * categories.length + bottomPx, [
    legend(series),
    axis(
      ticks.map((value): [number, string] => [x(value), unit(value)]),
      topPx + rowPx * categories.length,
    ),
    labels(categories, rowPx),
    ...bars,
  ]);
}

/** A ratio to two or three digits. */
export function ratioText(ratio: number): string {
  if (ratio >= 1000) return `${Math.round(ratio / 100) / 10}k×`;
  if (ratio >= 100) return `${Math.round(ratio)}×`;
  return `${Number(ratio.toPrecision(ratio >= 1 ? 3 : 2))}×`;
}

/** Makes text safe to stand in HTML and SVG. */
export function escaped(text: string): string {
  return text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);
}

/** 1, 2 or 5 times a power of ten, at least as much as is asked for. */
function roundStep(least: number): number {
  const power = 10 ** Math.floor(Math.log10(least));
  return power * ([1, 2, 5].find((factor) => factor * power >= least) ?? 10);
}

function svg(heightPx: number, parts: readonly string[]): string {
  return `<svg viewBox="0 0 ${widthPx} ${heightPx}" width="${widthPx}" height="${heightPx}" role="img">${parts.join('')}</svg>`;
}

function legend(series: readonly Series[]): string {
  let left = labelPx;
  return series
    .map(({ name, colour }) => {
      const entry = rectangle(left, 4, 12, 12, colour) + words(left + 17, 14, name, 'start', 12);
      // No font is measured here: seven pixels a letter are enough for all that are common.
      left += 40 + 7 * name.length;
      return entry;
    })
    .join('');
}

function axis(ticks: readonly [x: number, label: string][], bottom: number): string {
  return ticks
    .map(([x, label]) => line(x, topPx, bottom, '#e2e8f0') + words(x, bottom + 16, label, 'middle', 11))
    .join('');
}

function labels(categories: readonly string[], rowPx: number): string {
  return categories
    .map((category, row) => words(labelPx - 8, topPx + row * rowPx + rowPx / 2 + 4, category, 'end', 12))
    .join('');
}

function rectangle(x: number, y: number, width: number, height: number, colour: string): string {
  return `<rect x="${x.toFixed(1)}" y="${y}" width="${width.toFixed(1)}" height="${height}" fill="${colour}"/>`;
}

function line(x: number, from: number, to: number, colour: string): string {
  return `<line x1="${x.toFixed(1)}" x2="${x.toFixed(1)}" y1="${from}" y2="${to}" stroke="${colour}"/>`;
}

function words(x: number, y: number, text: string, anchor: 'start' | 'middle' | 'end', sizePx: number): string {
  return `<text x="${x.toFixed(1)}" y="${y}" text-anchor="${anchor}" font-size="${sizePx}">${escaped(text)}</text>`;
}
