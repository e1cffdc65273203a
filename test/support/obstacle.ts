/** Tests that need something of the machine: they run where it is there, and say what is missing where it is not. */
import type { Test } from 'uvu';

/**
 * `test` itself when `obstacle` is null; else a stand-in that skips, with a line for each test that says why. The runner
 * counts a test that was skipped without such a line as failed.
 */
export function testUnless<T>(test: Test<T>, obstacle: string | null): Test<T>['skip'] {
  if (obstacle === null) return test;
  return ((...args: Parameters<Test<T>['skip']>): void => {
    process.stdout.write(`SKIP ${String(args[0])}: ${obstacle}\n`);
    test.skip(...args);
  }) as Test<T>['skip'];
}
