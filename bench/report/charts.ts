/** The report's charts: horizontal bars, drawn here to SVG, so that the report needs nothing to show them. */
import { BarChart, type BarSeriesOption } from 'echarts/charts';
import {
  GridComponent,
  type GridComponentOption,
  LegendComponent,
  type LegendComponentOption,
} from 'echarts/components';
import { type ComposeOption, init, use } from 'echarts/core';
import { SVGRenderer } from 'echarts/renderers';

use([BarChart, GridComponent, LegendComponent, SVGRenderer]);

type ChartOption = ComposeOption<BarSeriesOption | GridComponentOption | LegendComponentOption>;

/** One series of bars: a value for each category; null leaves the place empty. */
export interface Series {
  name: string;
  colour: string;
  values: readonly (number | null)[];
}

const widthPx = 1080;
const topPx = 34;
const bottomPx = 28;

/** Ratios as bars that begin at 1, on a logarithmic scale: to the right deltahop is better, to the left rsync. */
export function ratioChart(categories: readonly string[], series: readonly Series[]): string {
  return chart(categories, 12 + 11 * Math.max(1, series.length), {
    xAxis: {
      type: 'value',
      // A logarithmic axis would begin its bars at its own end.
      axisLabel: { formatter: (log: number) => ratioText(10 ** log) },
      minInterval: 0.5,
    },
    series: series.map(({ name, colour, values }) => ({
      type: 'bar',
      name,
      color: colour,
      barGap: '10%',
      barCategoryGap: '12%',
      data: values.map((value) => (value === null ? null : Math.log10(value))),
      label: {
        show: true,
        position: 'right',
        fontSize: 10,
        formatter: ({ value }) => (typeof value === 'number' ? ratioText(10 ** value) : ''),
      },
    })),
  });
}

/** Parts of a whole as one bar for each category. `unit` says what the axis shows; `max` is where the axis ends. */
export function stackChart(
  categories: readonly string[],
  series: readonly Series[],
  unit: (value: number) => string,
  max?: number,
): string {
  return chart(categories, 24, {
    xAxis: { type: 'value', axisLabel: { formatter: unit }, ...(max !== undefined && { max }) },
    series: series.map(({ name, colour, values }) => ({
      type: 'bar',
      name,
      color: colour,
      stack: 'whole',
      barWidth: 14,
      data: [...values],
    })),
  });
}

/** A ratio to two or three digits. */
export function ratioText(ratio: number): string {
  if (ratio >= 1000) return `${Math.round(ratio / 100) / 10}k×`;
  if (ratio >= 100) return `${Math.round(ratio)}×`;
  return `${Number(ratio.toPrecision(ratio >= 1 ? 3 : 2))}×`;
}

/** Makes text safe to stand in HTML. */
export function escaped(text: string): string {
  return text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);
}

function chart(categories: readonly string[], rowPx: number, option: ChartOption): string {
  const legendRows = Math.ceil((Array.isArray(option.series) ? option.series.length : 1) / 6);
  const top = topPx + 22 * (legendRows - 1);
  const height = top + rowPx * categories.length + bottomPx;
  const drawing = init(null, null, { renderer: 'svg', ssr: true, width: widthPx, height });
  try {
    drawing.setOption({
      animation: false,
      grid: { left: 215, right: 60, top, bottom: bottomPx },
      legend: { top: 4, left: 215, itemWidth: 12, itemHeight: 12 },
      yAxis: {
        type: 'category',
        inverse: true,
        data: [...categories],
        axisTick: { show: false },
        axisLabel: { interval: 0 },
      },
      ...option,
    } satisfies ChartOption);
    return drawing.renderToSVGString();
  } finally {
    drawing.dispose();
  }
}
