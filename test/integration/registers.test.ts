/** What a CRIU leaves that is killed in the midst of a system call it has a process make: played by a tracer that dies. */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type Freezer, healRegisters, keepRegisters } from '../../src/workload/lxc/registers.js';
import { ended } from '../support/ended.js';
import { testUnless } from '../support/obstacle.js';
import { withScratch } from '../support/scratch.js';

const v1 = '/sys/fs/cgroup/freezer';
const version: Freezer['version'] = existsSync(v1) ? 'v1' : 'v2';

const here = testUnless(
  test,
  process.getuid?.() !== 0
    ? 'the freezer needs root'
    : process.arch !== 'x64'
      ? 'the tracer that plays CRIU is written for x86-64'
      : null,
);

/** argv: the process, the freezer's file, what opens it, what shuts it. Gives it getpid(2) and a breakpoint, and dies. */
const killedAtWork = `my ($process, $freezer, $open, $shut) = @ARGV;
sub ptrace { my ($what, $at, $data) = @_; syscall(101, $what, $process + 0, $at, $data) == 0 or die "ptrace $what: $!" }
sub freezer { open(my $file, ">", $freezer); syswrite($file, $_[0]) or die "freezer: $!" }
ptrace(0x4206, 0, 0);
ptrace(0x4207, 0, 0);
freezer($open);
waitpid($process, 0x40000000) == $process or die "wait: $!";
open(my $maps, "<", "/proc/$process/maps");
my ($start) = map { /^([0-9a-f]+)-\\S+ ..x/ ? hex $1 : () } <$maps>;
open(my $memory, "+<", "/proc/$process/mem");
sysseek($memory, $start, 0);
syswrite($memory, "\\x0f\\x05\\xcc\\xcc\\xcc\\xcc\\xcc\\xcc") == 8 or die "code: $!";
my $registers = "\\0" x 216;
my $vector = pack("J J", unpack("J", pack("P", $registers)), 216);
ptrace(0x4204, 1, $vector);
my @all = unpack("J27", $registers);
@all[10, 15, 16] = (39, ~0, $start);
my $new = pack("J27", @all);
ptrace(0x4205, 1, pack("J J", unpack("J", pack("P", $new)), 216));
freezer($shut);`;

/** Counts, at times busy and at times asleep, with a register that nothing else sets. argv: the file it counts in. */
const counter = `my $count = 0;
for (;;) { $sum += $_ for 1 .. 20000; select(undef, undef, undef, 0.01); open(my $file, ">", $ARGV[0]); syswrite($file, ++$count) }`;

/** Whether the counter goes on after its tracer has died at work for it. */
async function goesOn(directory: string, healed: boolean): Promise<boolean> {
  const cgroup = join(version === 'v1' ? v1 : '/sys/fs/cgroup', `deltahop-registers-${process.pid}`);
  const [file, open, shut] = version === 'v1' ? ['freezer.state', 'THAWED', 'FROZEN'] : ['cgroup.freeze', '0', '1'];
  const put = (word: string) => writeFileSync(join(cgroup, file), word);
  const [counts, kept] = [join(directory, 'counts'), join(directory, 'kept')];
  const count = () => Number(readFileSync(counts, 'utf8'));
  const must = (argv: readonly string[]) => {
    const { status, stdout, stderr } = spawnSync(argv[0] ?? '', argv.slice(1), { encoding: 'utf8', timeout: 30_000 });
    assert.is(status, 0, stderr);
    return stdout;
  };
  mkdirSync(cgroup);
  writeFileSync(counts, '0');
  const child = spawn('perl', ['-e', counter, counts], { stdio: 'ignore' });
  const over = ended(child);
  try {
    while (count() < 5) await sleep(10);
    writeFileSync(join(cgroup, 'cgroup.procs'), String(child.pid));
    const mark = join(directory, 'mark');
    must(['sh', '-c', keepRegisters({ directory: cgroup, version }, kept, mark)]);
    assert.is(readFileSync(mark, 'utf8'), '');
    must(['perl', '-e', killedAtWork, String(child.pid), join(cgroup, file), open, shut]);
    if (healed) {
      const told = must(['sh', '-c', healRegisters({ directory: cgroup, version }, kept)]);
      assert.is(told, `${child.pid} of ${child.pid} was caught at work for CRIU\n`);
      // Once more finds nothing.
      assert.is(must(['sh', '-c', healRegisters({ directory: cgroup, version }, kept)]), '');
    }
    const before = count();
    put(open);
    const deadline = Date.now() + 10_000;
    while (child.exitCode === null && child.signalCode === null) {
      if (Date.now() > deadline) throw new Error('it neither counts nor ends');
      if (count() > before + 20) return true;
      await sleep(10);
    }
    return false;
  } finally {
    put(open);
    child.kill('SIGKILL');
    await over;
    rmdirSync(cgroup);
  }
}

here('a process whose CRIU was killed at work in it goes on where it was', () =>
  withScratch(async (directory) => {
    assert.is(await goesOn(directory, false), false, 'without what was kept it dies');
    for (let turn = 0; turn < 10; ++turn) assert.is(await goesOn(directory, true), true);
  }),
);

test.run();
