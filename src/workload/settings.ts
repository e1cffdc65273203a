/** Reading the settings of services, as far as drivers have them in common. */
import { DeltahopError } from '../errors.js';

/** A number of bytes with or without a unit. @throws DeltahopError DELTAHOP_E_INVALID_ARGUMENT */
export function parseBytes(key: string, text: string): number {
  const [, digits = '', unit = ''] = /^(\d{1,15})([KMGT]?)$/.exec(text) ?? [];
  const bytes = Number(digits) * 1024 ** ['', 'K', 'M', 'G', 'T'].indexOf(unit);
  if (digits === '' || bytes < 1 << 20 || !Number.isSafeInteger(bytes)) {
    throw invalid(key, `must be a number of bytes, or one with K, M, G or T, from 1M up, not ${quoted(text)}`);
  }
  return bytes;
}

/** The error of a setting that is not accepted. */
export function invalid(key: string, what: string): DeltahopError {
  return new DeltahopError('DELTAHOP_E_INVALID_ARGUMENT', `setting ${key} ${what}`);
}

/** A value as a message shows it. */
export function quoted(text: string): string {
  return JSON.stringify(text.slice(0, 80));
}
