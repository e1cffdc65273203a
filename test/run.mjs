#!/usr/bin/env node
/**
 * Runs the project's checks: lint, the C++ tests under sanitizers, unit tests, integration tests.
 *
 *   node test/run.mjs [--only lint|native|unit|integration] [FILTER]
 *
 * FILTER keeps the checks and test files whose name contains it. Expects a built tree (test/setup/prepare.sh). Each test
 * file runs in a process of its own and is believed only if its totals add up: uvu by itself exits with 0 when a file
 * forgets run(), when a hook throws and when a test rejects with something that is not an Error. The last line printed
 * is `N passed, N failed`, with `, N skipped` if any were.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const project = dirname(dirname(fileURLToPath(import.meta.url)));
const kinds = ['lint', 'native', 'unit', 'integration'];
const unitFilesAtOnce = 2;
const minutes = 60_000;
/** After a polite signal, the time a child has to take down what it set up. */
const graceMs = 15_000;

const totals = { passed: 0, failed: 0, skipped: 0 };
/** Children that run now; each leads a process group of its own. */
const running = new Set();
let isStopping = false;

function print(line) {
  process.stdout.write(`${line}\n`);
}

function signalGroup(child, signal) {
  try {
    process.kill(-child.pid, signal);
  } catch (error) {
    if (error.code !== 'ESRCH') throw error;
  }
}

function endGroup(child) {
  signalGroup(child, 'SIGTERM');
  const timer = setTimeout(() => signalGroup(child, 'SIGKILL'), graceMs);
  child.once('close', () => clearTimeout(timer));
}

/** Runs a command to its end; never rejects. */
function run(command, args, timeoutMs) {
  if (isStopping) return new Promise(() => undefined);
  const started = process.hrtime.bigint();
  return new Promise((resolve) => {
    let output = '';
    let note = '';
    const done = (ok, why) => {
      clearTimeout(timer);
      running.delete(child);
      resolve({ ok, why: why || note, output, ms: Number((process.hrtime.bigint() - started) / 1_000_000n) });
    };
    const child = spawn(command, args, {
      cwd: project,
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, NO_COLOR: '1', FORCE_COLOR: '0' },
    });
    running.add(child);
    const timer = setTimeout(() => {
      note = `still running after ${timeoutMs / 1000} s`;
      endGroup(child);
    }, timeoutMs);
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8');
      stream.on('data', (text) => {
        output += text;
      });
    }
    child.on('error', (error) => done(false, `cannot start ${command}: ${error.message}`));
    child.on('close', (code, signal) => {
      if (note !== '') done(false, note);
      else if (signal !== null) done(false, `ended by ${signal}`);
      else done(code === 0, code === 0 ? '' : `exit code ${code}`);
    });
  });
}

function seconds(ms) {
  return `${(ms / 1000).toFixed(1)} s`;
}

/** Counts one result and prints it; the output only of what failed. */
function tell(name, result, counts) {
  totals.passed += counts.passed;
  totals.failed += counts.failed;
  totals.skipped += counts.skipped;
  const amounts = [
    counts.passed > 0 && `${counts.passed} passed`,
    counts.failed > 0 && `${counts.failed} failed`,
    counts.skipped > 0 && `${counts.skipped} skipped`,
  ].filter(Boolean);
  print(`${counts.failed > 0 ? 'FAIL' : 'ok  '} ${name}  (${[...amounts, seconds(result.ms)].join(', ')})`);
  for (const line of result.output.split('\n')) if (line.startsWith('SKIP ')) print(`       ${line.slice(5)}`);
  if (counts.failed === 0) return;
  if (result.why !== '') print(`  ${result.why}`);
  for (const line of result.output.trimEnd().split('\n')) print(`  | ${line}`);
}

/** A command that is one check: its exit code says it all. */
async function check(name, command, args, timeoutMs) {
  const result = await run(command, args, timeoutMs);
  tell(name, result, { passed: result.ok ? 1 : 0, failed: result.ok ? 0 : 1, skipped: 0 });
  return result.ok;
}

function bin(name) {
  return join(project, 'node_modules/.bin', name);
}

async function lint(wanted) {
  const checks = [
    ['lint/biome', bin('biome'), ['check', '.']],
    ['lint/clang-format', 'bash', ['native/format.sh', '--check']],
    ['lint/dependency-rules', bin('depcruise'), ['src', 'bench']],
  ];
  for (const [name, command, args] of checks) if (wanted(name)) await check(name, command, args, 3 * minutes);
}

/** doctest's own count of a run's test cases, null if it printed none. */
function doctestCounts(output) {
  const match = /\[doctest\] test cases:\s+\d+ \|\s+(\d+) passed \|\s+(\d+) failed \|\s+(\d+) skipped/.exec(output);
  return match && { passed: Number(match[1]), failed: Number(match[2]), skipped: Number(match[3]) };
}

async function native(wanted) {
  const name = 'native/build under ASan and UBSan';
  const build = 'build/asan';
  const configure = ['-S', '.', '-B', build, '-G', 'Ninja'];
  configure.push('-DDELTAHOP_TESTS=ON', '-DDELTAHOP_SANITIZE=address,undefined');
  // What optimizing further and full debug information cost in building, these tests do not win back in running.
  configure.push('-DCMAKE_BUILD_TYPE=None', '-DCMAKE_C_FLAGS=-O1 -g1', '-DCMAKE_CXX_FLAGS=-O1 -g1');
  const steps = [
    ['cmake', configure],
    ['ninja', ['--quiet', '-C', build, '-j', '2']],
  ];
  for (const [command, args] of steps) {
    const result = await run(command, args, 40 * minutes);
    if (!result.ok) {
      tell(name, result, { passed: 0, failed: 1, skipped: 0 });
      return;
    }
  }
  // ctest knows the tests that this build has: the unit tests and a replay for each fuzz target.
  const listing = await run('ctest', ['--test-dir', `${build}/native`, '--show-only=json-v1'], minutes);
  let tests = [];
  try {
    tests = JSON.parse(listing.output).tests;
  } catch (error) {
    listing.why = `the listing of ctest cannot be read: ${error.message}`;
  }
  if (tests.length === 0) {
    tell(name, { ...listing, why: listing.why || 'ctest lists no test' }, { passed: 0, failed: 1, skipped: 0 });
    return;
  }
  for (const test of tests) {
    const testName = `native/${test.name}`;
    if (!wanted(testName)) continue;
    const [command, ...args] = test.command;
    if (test.name !== 'engine') {
      await check(testName, command, args, 5 * minutes);
      continue;
    }
    const result = await run(command, args, 10 * minutes);
    const counts = doctestCounts(result.output) ?? { passed: 0, failed: 0, skipped: 0 };
    if ((!result.ok || counts.passed === 0) && counts.failed === 0) {
      counts.failed = 1;
      result.why ||= 'no test case ran';
    }
    tell(testName, result, counts);
  }
}

/** Every *.test.ts beneath a folder, as a path from the project. */
function testSources(folder) {
  const root = join(project, folder);
  if (!existsSync(root)) return [];
  return readdirSync(root, { recursive: true })
    .filter((name) => name.endsWith('.test.ts'))
    .map((name) => join(folder, name))
    .sort();
}

/** What a run of a uvu file is worth. Its Total leaves skipped tests out. */
function uvuCounts(result) {
  const number = (label) => {
    const all = [...result.output.matchAll(new RegExp(`^\\s*${label}:\\s+(\\d+)$`, 'gm'))];
    return all.length === 1 ? Number(all[0][1]) : null;
  };
  const [total, passed, skipped] = [number('Total'), number('Passed'), number('Skipped')];
  if (total === null || passed === null || skipped === null) {
    result.why ||= 'it printed no totals: does it end with test.run()?';
    return { passed: 0, failed: 1, skipped: 0 };
  }
  const counts = { passed, failed: total - passed, skipped };
  const reasons = result.output.split('\n').filter((line) => line.startsWith('SKIP ')).length;
  if (counts.failed === 0 && total + skipped === 0) {
    counts.failed = 1;
    result.why ||= 'it has no test';
  } else if (counts.failed === 0 && !result.ok) {
    counts.failed = 1;
  } else if (skipped > reasons) {
    counts.failed += 1;
    result.why ||= 'a test was skipped without a reason (test/support/obstacle.ts gives one)';
  }
  return counts;
}

async function testFile(source, timeoutMs) {
  const compiled = join('dist', source.replace(/\.ts$/, '.js'));
  const name = relative('test', source).replace(/\.test\.ts$/, '');
  if (!existsSync(join(project, compiled))) {
    const why = `${compiled} is missing: run \`npm run build:ts\``;
    tell(name, { ok: false, why, output: '', ms: 0 }, { passed: 0, failed: 1, skipped: 0 });
    return;
  }
  const result = await run(process.execPath, ['--enable-source-maps', compiled], timeoutMs);
  tell(name, result, uvuCounts(result));
}

async function testFiles(kind, filesAtOnce, timeoutMs, wanted) {
  const sources = testSources(`test/${kind}`);
  if (sources.length === 0) {
    tell(
      kind,
      { ok: false, why: `there is no test file in test/${kind}`, output: '', ms: 0 },
      { passed: 0, failed: 1, skipped: 0 },
    );
    return;
  }
  const queue = sources.filter(wanted);
  const next = async () => {
    for (let source = queue.shift(); source !== undefined; source = queue.shift()) await testFile(source, timeoutMs);
  };
  await Promise.all(Array.from({ length: filesAtOnce }, next));
}

function parseArguments(args) {
  let only = null;
  let filter = '';
  for (let i = 0; i < args.length; ++i) {
    if (args[i] === '--only' && kinds.includes(args[i + 1])) only = args[++i];
    else if (!args[i].startsWith('-') && filter === '') filter = args[i];
    else {
      print(`usage: node test/run.mjs [--only ${kinds.join('|')}] [FILTER]`);
      process.exit(2);
    }
  }
  return { only, filter };
}

const { only, filter } = parseArguments(process.argv.slice(2));
const wanted = (name) => name.includes(filter);
const started = Date.now();

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.once(signal, () => {
    isStopping = true;
    print(`stopped by ${signal}`);
    for (const child of running) endGroup(child);
    Promise.all([...running].map((child) => new Promise((resolve) => child.once('close', resolve)))).then(() =>
      process.exit(130),
    );
  });
}

mkdirSync(join(project, 'build'), { recursive: true });
if (only === null || only === 'lint') await lint(wanted);
if (only === null || only === 'native') await native(wanted);
if (only === null || only === 'unit') await testFiles('unit', unitFilesAtOnce, 3 * minutes, wanted);
if (only === null || only === 'integration') await testFiles('integration', 1, 15 * minutes, wanted);

if (totals.passed + totals.failed + totals.skipped === 0) {
  print(`nothing is named *${filter}*`);
  totals.failed = 1;
}
print(`\nin ${seconds(Date.now() - started)}`);
const skipped = totals.skipped > 0 ? `, ${totals.skipped} skipped` : '';
print(`${totals.passed} passed, ${totals.failed} failed${skipped}`);
process.exitCode = totals.failed > 0 ? 1 : 0;
