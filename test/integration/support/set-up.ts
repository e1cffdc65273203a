import type { Test } from 'uvu';

/**
 * What is done once before the tests of a file, unless they are skipped. uvu keeps silent about a hook that throws: the
 * totals show that something is wrong, and this says what.
 */
export function setUp<T>(test: Test<T>, obstacle: string | null, work: () => Promise<void>): void {
  test.before(async () => {
    if (obstacle !== null) return;
    try {
      await work();
    } catch (error) {
      process.stdout.write(`set-up failed: ${error instanceof Error ? error.stack : String(error)}\n`);
      throw error;
    }
  });
}
