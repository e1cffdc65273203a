/** What options and arguments of the command line may say, checked as they are read. */
import { InvalidArgumentError } from 'commander';
import { formatAddress, parseAddress } from '../agent/peers.js';

/** The value that `read` gives; its error as one of the command line. */
export function orInvalid<T>(read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw new InvalidArgumentError(error instanceof Error ? error.message : String(error));
  }
}

/** `HOST:PORT`, in its usual form. */
export function readAddress(text: string): string {
  return orInvalid(() => formatAddress(parseAddress(text)));
}

/** A number of seconds. */
export function readSeconds(text: string): number {
  const seconds = /^\d{1,6}(\.\d{1,3})?$/.test(text) ? Number(text) : Number.NaN;
  if (Number.isFinite(seconds)) return seconds;
  throw new InvalidArgumentError('Write a number of seconds, like 30 or 0.5.');
}

/** The same in whole milliseconds, as the agent wants them: 2.01 · 1000 is none. */
export function toMs(seconds: number): number {
  return Math.round(seconds * 1000);
}
