/** What people and programs read: escaped text, tables, errors, and progress as bars, lines or JSON. */
import cliProgress from 'cli-progress';
import prettyBytes from 'pretty-bytes';
import prettyMs from 'pretty-ms';
import type { ErrorBody, StreamedEvent } from '../agent/messages.js';
import { Pace } from '../migrate/pace.js';

/** A stream to write to. */
export interface Output {
  write(text: string): unknown;
  readonly isTTY?: boolean;
}

/** C0 and C1 controls, DEL, line separators, and what reorders or hides text: all can make a terminal show a lie. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: finding them is the purpose
const unprintable = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;

/** Text from anywhere, fit for a terminal: what is not plain text is shown as `\xHH` or `\uHHHH`. */
export function printable(text: string): string {
  return text.replace(unprintable, (character) => {
    const code = character.charCodeAt(0);
    return code < 0x100 ? `\\x${code.toString(16).padStart(2, '0')}` : `\\u${code.toString(16).padStart(4, '0')}`;
  });
}

/** One JSON object as a line. It is valid JSON and shows no control character either. */
export function jsonLine(value: object): string {
  const escaped = JSON.stringify(value).replace(
    unprintable,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
  return `${escaped}\n`;
}

/** An error for people: what happened, and the way out. */
export function errorText({ code, message, remedy }: ErrorBody): string {
  return `deltahop: ${printable(message)}\n  → ${printable(remedy)}  [${printable(code)}]\n`;
}

/** Columns under a heading, each as wide as its widest cell. */
export function table(heading: readonly string[], rows: readonly (readonly string[])[]): string {
  const cells = [heading, ...rows].map((row) => row.map(printable));
  const widths = heading.map((_, column) => Math.max(...cells.map((row) => [...(row[column] ?? '')].length)));
  const line = (row: readonly string[]): string =>
    row
      .map((cell, column) => cell + ' '.repeat((widths[column] ?? 0) - [...cell].length))
      .join('  ')
      .trimEnd();
  return `${cells.map(line).join('\n')}\n`;
}

/** Bytes for people, in decimal units as links are rated. */
export function bytesText(bytes: number): string {
  return prettyBytes(bytes);
}

/** A time for people. */
export function durationText(ms: number): string {
  return ms < 1000 ? `${Math.round(ms)} ms` : prettyMs(ms, { secondsDecimalDigits: 1 });
}

/** A figure that is not known yet: the likely value and its bounds. */
export function rangeText(range: Fields, text: (value: number) => string): string {
  return `${text(number(range, 'expected'))} (${text(number(range, 'low'))} to ${text(number(range, 'high'))})`;
}

/** Shows the events of a job as they come. */
export interface EventView {
  show(event: StreamedEvent): void;
  /** Takes what is only temporary off the terminal. */
  close(): void;
}

/** The view for a job: JSON lines, or text with bars on a terminal and plain lines elsewhere. */
export function eventView(json: boolean, stdout: Output, stderr: Output): EventView {
  if (json) {
    return {
      show: (event) => {
        if (event.type !== 'job') stdout.write(jsonLine(event));
      },
      close: () => {},
    };
  }
  return new TextView(stdout, stderr);
}

/** Between two lines of progress where there is no terminal to draw a bar on. */
const plainProgressMs = 5_000;

class TextView implements EventView {
  readonly #stdout: Output;
  readonly #progress: Bar | PlainProgress;

  constructor(stdout: Output, stderr: Output) {
    this.#stdout = stdout;
    this.#progress = stderr.isTTY === true ? new Bar(stderr) : new PlainProgress(stderr);
  }

  show(event: StreamedEvent): void {
    if (event.type === 'progress') {
      this.#progress.update(measured(event));
      return;
    }
    const line = eventLine(event);
    if (line === null) return;
    this.#progress.close();
    this.#stdout.write(`${line}\n`);
  }

  close(): void {
    this.#progress.close();
  }
}

/** A line for an event, or null if people need not see it. */
export function eventLine(event: StreamedEvent): string | null {
  switch (event.type) {
    case 'phase': {
      if (event['state'] !== 'end') return null;
      const name = printable(text(event, 'name')).padEnd(10);
      const time = durationText(number(event, 'ms')).padStart(9);
      return `${name}${time}  ${trafficText(event)}`;
    }
    case 'forecast':
      return forecastText(event);
    case 'round': {
      const expected = event['expectedDowntimeMs'];
      const down = typeof expected === 'number' ? `; a freeze now: down for ${durationText(expected)}` : '';
      return (
        `  round ${number(event, 'round')}: sent ${bytesText(number(event, 'bytesSent'))} in ` +
        `${durationText(number(event, 'ms'))}${down}; next: ${printable(text(event, 'next'))}`
      );
    }
    case 'throttle':
      return `  it changes more than the link carries: slowed down to ${number(event, 'percent')} % of its processors`;
    case 'warning':
      return `warning: ${printable(text(event, 'message'))}`;
    case 'service': {
      const name = printable(text(event, 'name'));
      return `added service ${name}; \`deltahop service start ${name}\` starts it`;
    }
    case 'layer':
      return printable(text(event, 'digest'));
    case 'summary':
      return event['result'] === 'moved' ? movedText(event) : null;
    default:
      return null;
  }
}

function movedText(event: StreamedEvent): string {
  const downtime = event['downtimeMs'];
  const down = typeof downtime === 'number' ? `, down for ${durationText(downtime)}` : '';
  const route = `${printable(text(event, 'service'))} moved from ${printable(text(event, 'from'))} to ${printable(text(event, 'to'))}`;
  const moved = `${route} in ${durationText(number(event, 'totalMs'))}${down}; ${trafficText(event)}`;
  const stages = list(event, 'downtime').map(stageText);
  const forecast = fields(event, 'forecast');
  const lines = [moved, ...(stages.length === 0 ? [] : [`  down: ${stages.join(', ')}`])];
  const throttle = fields(event, 'throttle');
  if (throttle !== null) {
    const least = `${number(throttle, 'leastPercent')} % of its processors at the least`;
    lines.push(`  slowed down to ${least}, for ${durationText(number(throttle, 'ms'))}`);
  }
  if (forecast !== null) lines.push(`  ${cameText(forecast)}`);
  return lines.join('\n');
}

function forecastText(event: Fields): string {
  const total = fields(event, 'totalMs');
  const takes = total === null ? '' : `takes ${rangeText(total, durationText)}, `;
  const sends = rangeText(fields(event, 'bytesSent') ?? {}, bytesText);
  return `expected: sends ${sends}, ${takes}down for ${rangeText(fields(event, 'downtimeMs') ?? {}, durationText)}`;
}

/** How the forecast did, where it has been wrong. */
function cameText(forecast: Fields): string {
  const came = fields(forecast, 'came') ?? {};
  const wrong = [
    ['bytesSent', 'bytes'],
    ['totalMs', 'time'],
    ['downtimeMs', 'downtime'],
  ].flatMap(([field = '', name]) =>
    ['above', 'below'].includes(text(came, field)) ? [`${name} ${text(came, field)}`] : [],
  );
  return wrong.length === 0 ? 'as expected' : `not as expected: ${wrong.join(', ')} its bounds`;
}

function stageText(stage: Fields): string {
  const driverMs = stage['driverMs'];
  const own = typeof driverMs === 'number' ? ` (CRIU ${durationText(driverMs)})` : '';
  return `${printable(text(stage, 'stage'))} ${durationText(number(stage, 'ms'))}${own}`;
}

function trafficText(event: StreamedEvent): string {
  return `sent ${bytesText(number(event, 'bytesSent'))}, received ${bytesText(number(event, 'bytesReceived'))}`;
}

interface Measured {
  what: string;
  doneBytes: number;
  /** 0 while not known. */
  totalBytes: number;
  /** Of a migration; 0 while not known. */
  expectedDowntimeMs: number;
}

function measured(event: StreamedEvent): Measured {
  const phase = text(event, 'phase');
  const what = text(event, 'what')
    .replace(/^layer-[0-9a-f]{64}$/, 'layer')
    .replace(/^instance-/, '');
  return {
    what: printable(phase === '' || phase === what ? what : `${phase} ${what}`),
    doneBytes: number(event, 'doneBytes'),
    totalBytes: number(event, 'totalBytes'),
    expectedDowntimeMs: number(event, 'expectedDowntimeMs'),
  };
}

function paceText(pace: Pace, { what, doneBytes, totalBytes, expectedDowntimeMs }: Measured): string {
  const { bytesPerSecond, etaMs } = pace.measure(what, doneBytes, totalBytes);
  const parts = [totalBytes > 0 ? `${bytesText(doneBytes)} of ${bytesText(totalBytes)}` : bytesText(doneBytes)];
  if (bytesPerSecond !== null) parts.push(`${bytesText(bytesPerSecond)}/s`);
  if (etaMs !== null) parts.push(`${durationText(etaMs)} left`);
  if (expectedDowntimeMs > 0) parts.push(`will be down for ${durationText(expectedDowntimeMs)}`);
  return parts.join(', ');
}

class Bar {
  readonly #stream: Output;
  readonly #pace = new Pace();
  #bar: cliProgress.SingleBar | null = null;

  constructor(stream: Output) {
    this.#stream = stream;
  }

  update(progress: Measured): void {
    const payload = { what: progress.what, pace: paceText(this.#pace, progress) };
    const total = Math.max(progress.totalBytes, progress.doneBytes, 1);
    if (this.#bar === null) {
      this.#bar = new cliProgress.SingleBar({
        format: '{what} {bar} {percentage}%  {pace}',
        stream: this.#stream as NodeJS.WritableStream,
        barsize: 24,
        hideCursor: true,
        clearOnComplete: true,
        // The cursor and this line are ours to restore at an interrupt: the command goes on after the first one.
        gracefulExit: false,
      });
      this.#bar.start(total, progress.doneBytes, payload);
    }
    this.#bar.setTotal(total);
    this.#bar.update(progress.doneBytes, payload);
  }

  close(): void {
    this.#bar?.stop();
    this.#bar = null;
  }
}

class PlainProgress {
  readonly #stream: Output;
  readonly #pace = new Pace();
  #shownAtMs = performance.now();

  constructor(stream: Output) {
    this.#stream = stream;
  }

  update(progress: Measured): void {
    const pace = paceText(this.#pace, progress);
    if (performance.now() - this.#shownAtMs < plainProgressMs) return;
    this.#shownAtMs = performance.now();
    this.#stream.write(`${progress.what}: ${pace}\n`);
  }

  close(): void {}
}

/** An object as it came: its fields may be anything. */
type Fields = Readonly<Record<string, unknown>>;

function list(event: Fields, field: string): Fields[] {
  const value = event[field];
  return Array.isArray(value) ? value.filter((item) => typeof item === 'object' && item !== null) : [];
}

function fields(event: Fields, field: string): Fields | null {
  const value = event[field];
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Fields) : null;
}

function text(event: Fields, field: string): string {
  const value = event[field];
  return typeof value === 'string' ? value : '';
}

function number(event: Fields, field: string): number {
  const value = event[field];
  return typeof value === 'number' && Number.isFinite(value) ? value : 0;
}
