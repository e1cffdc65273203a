/** Files of /proc and /sys, any of which may be gone by the time that it is looked at: then there is nothing in it. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

/** Names in a directory; none if it is gone. */
export function list(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

/** A file's bytes as characters; '' if it is gone. */
export function read(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return '';
  }
}

/** Where a link leads; '' if it is gone. */
export function target(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return '';
  }
}
