import * as assert from 'uvu/assert';
import { type ErrorCode, isDeltahopError } from '../../src/errors.js';

/** The message of the DeltahopError with `code` with which `promise` must be rejected; anything else fails the test. */
export async function rejection(promise: Promise<unknown>, code: ErrorCode): Promise<string> {
  try {
    await promise;
  } catch (error) {
    assert.ok(isDeltahopError(error), String(error));
    assert.is(error.code, code, error.message);
    return error.message;
  }
  throw new Error(`expected ${code}`);
}
