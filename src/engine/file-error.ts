/** Node's file errors in the terms of the catalogue. */
import { DeltahopError, type ErrorCode } from '../errors.js';

const codes: Readonly<Record<string, ErrorCode>> = {
  ENOENT: 'DELTAHOP_E_NOT_FOUND',
  ENOSPC: 'DELTAHOP_E_NO_SPACE',
  EDQUOT: 'DELTAHOP_E_NO_SPACE',
};

/** The DeltahopError for an error of a file or stream: `what` names what was being done. A DeltahopError stays itself. */
export function fileError(error: unknown, what: string): DeltahopError {
  if (error instanceof DeltahopError) return error;
  const { code, errno, message } = error as NodeJS.ErrnoException;
  const details = errno === undefined ? { cause: error } : { cause: error, sysErrno: Math.abs(errno) };
  return new DeltahopError(codes[code ?? ''] ?? 'DELTAHOP_E_IO', `${what}: ${message ?? String(error)}`, details);
}
