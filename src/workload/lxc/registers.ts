import { quote } from '../verdict.js';

/**
 * The registers of a container's threads, and the code that CRIU writes over, kept before CRIU takes hold of them.
 *
 * To have a process do something for it, CRIU puts a system call and a breakpoint where the process's first executable
 * mapping begins, sets the registers of its first thread, and puts back both afterwards; of further threads it runs its
 * own code (CRIU, compel/src/lib/infect.c as of 4.2). Only it knows what was there: killed in between, it leaves a process
 * that goes on at that breakpoint, and dies of it. So both are read before, by ptrace(2), which takes no process's word.
 *
 * In the file, a line for each thread: process, thread, begin of that mapping, its first bytes, the general registers
 * (NT_PRSTATUS), the mask of blocked signals.
 */

/** Where the freezer of a container is. */
export interface Freezer {
  directory: string;
  version: 'v1' | 'v2';
}

/** The number of ptrace(2), where NT_PRSTATUS has the instruction pointer, and dr7 in `struct user`, if there is one. */
const machines: Readonly<Record<string, readonly [number, number, number]>> = {
  x64: [101, 128, 904],
  arm64: [117, 256, 0],
};

/** What both programs begin with; argv: the numbers above, the freezer's directory and version, the file, and more. */
const common = `use strict; use Fcntl;
my ($call, $at, $dr7, $cgroup, $version, $kept, $mark) = @ARGV;
my ($state, $shut, $word, $open) = $version eq "v1"
  ? ("freezer.state", qr/^FROZEN/, "FROZEN", "THAWED") : ("cgroup.events", qr/^frozen 1/m, "1", "0");
my %requests = (poke => 6, continue => 7, get => 0x4204, set => 0x4205, seize => 0x4206, interrupt => 0x4207, mask => 0x420a,
  setmask => 0x420b);
# Not copied, for the kernel writes into the last.
sub ptrace { syscall($call, $requests{$_[0]}, $_[1] + 0, $_[2], $_[3]) == 0 }
sub slurp { open(my $file, "<", $_[0]) or return ""; local $/; my $text = <$file>; $text // "" }
sub write_all { open(my $file, ">", $_[0]) or die "$_[0]: $!\\n"; syswrite($file, $_[1]) == length $_[1] or die "$_[0]: $!\\n" }
sub freezer { write_all("$cgroup/" . ($version eq "v1" ? $state : "cgroup.freeze"), $_[0]) }
sub memory { my ($process, $mode, $start) = @_; sysopen(my $memory, "/proc/$process/mem", $mode) or die "memory: $!\\n"; sysseek($memory, $start, 0); $memory }
sub code { sysread(memory($_[0], O_RDONLY, $_[1]), my $bytes, 64) or die "code: $!\\n"; $bytes }
sub pointer { pack("J J", unpack("J", pack("P", $_[0])), length $_[0]) }
sub registers { my ($thread) = @_; my $bytes = "\\0" x 1024; my $vector = pointer($bytes); ptrace("get", $thread, 1, $vector) or return;
  substr($bytes, 0, (unpack("J J", $vector))[1]) }
sub ip { unpack("J", substr($_[0], $at, 8)) }
# Of what stands in the freezer, nothing runs in user mode before it has stopped for us: so all of it has to be ours.
sub hold {
  my @held = grep { slurp("/proc/$_/stat") !~ /^\\d+ \\(.*\\) [ZX] /s } @_;
  for (@held) { ptrace("seize", $_, 0, 0) && ptrace("interrupt", $_, 0, 0) or die "thread $_: $!\\n" }
  freezer($open);
  grep { stopped($_) } @held;
}
sub stopped {
  for my $turn (0 .. 400) {
    my $found = waitpid($_[0], 0x40000001);
    # Perl tells nothing of a stop's status. One that has ended has no registers either.
    return $found == $_[0] if $found != 0;
    select(undef, undef, undef, 0.0005) if $turn > 100;
  }
  return;
}
`;

/**
 * Shuts the freezer, once it is itself ready for that. What it holds at the end, it lets go of by ending. Of what does not stop
 * within two seconds nothing is kept: whoever needs it shut waits on.
 */
const keep = `${common}
write_all($mark, "");
freezer($word);
for my $turn (0 .. 4000) {
  last if slurp("$cgroup/$state") =~ $shut;
  exit 1 if $turn == 4000;
  select(undef, undef, undef, 0.0005);
}
my %process;
for my $list (map { glob("$cgroup/" . "*/" x $_ . "cgroup.procs") } 0 .. 3) {
  for my $process (split "\\n", slurp($list)) {
    $process{$_} = $process for map { m{/task/(\\d+)$} } glob("/proc/$process/task/*");
  }
}
my %code;
for my $process (values %process) {
  next if $code{$process};
  my ($start) = slurp("/proc/$process/maps") =~ /^([0-9a-f]+)-[0-9a-f]+ ..x/m or next;
  $code{$process} = sprintf("%s %s", $start, unpack("H*", code($process, hex $start)));
}
my $lines = "";
for my $thread (hold(keys %process)) {
  my $registers = registers($thread) // next;
  my $mask = "\\0" x 8;
  ptrace("mask", $thread, 8, $mask) or next;
  $lines .= join(" ", $process{$thread}, $thread, $code{$process{$thread}} // next, unpack("H*", $registers), unpack("H*", $mask)) . "\\n";
}
freezer($word);
write_all($kept, $lines);
`;

/**
 * Puts back what a killed CRIU has not. The container is frozen before and afterwards.
 *
 * What is in the midst of CRIU's own program, a process's first thread alone, is left: it comes back by itself.
 */
const heal = `${common}
my %kept = map { my @words = split; ($words[1], \\@words) } split("\\n", slurp($kept));
for my $thread (hold(grep { -e "/proc/$kept{$_}[0]/task/$_" } keys %kept)) {
  my ($process, undef, $start, $bytes, $registers, $mask) = @{$kept{$thread}};
  ($start, $bytes, $registers, $mask) = (hex $start, map { pack("H*", $_) } $bytes, $registers, $mask);
  ptrace("poke", $thread, $dr7, 0) if $dr7;
  my $now = registers($thread) // next;
  my $inside = sub { $_[0] >= $start && $_[0] < $start + 64 };
  my $caught;
  if ($thread == $process) {
    my $written = code($process, $start) ne $bytes;
    $caught = $written || $inside->(ip($now)) && !$inside->(ip($registers));
    syswrite(memory($process, O_WRONLY, $start), $bytes) if $written;
  } else {
    for (slurp("/proc/$process/maps") =~ /^([0-9a-f]+-[0-9a-f]+) .*CRIUMFD/mg) {
      my ($from, $to) = map { hex } split "-";
      $caught ||= ip($now) >= $from && ip($now) < $to;
    }
  }
  next if !$caught;
  ptrace("set", $thread, 1, pointer($registers));
  ptrace("setmask", $thread, 8, $mask);
  # The breakpoint's signal, which it would die of, ends here.
  my ($pending) = slurp("/proc/$process/task/$thread/status") =~ /^SigPnd:\\s*([0-9a-f]+)/m;
  if (hex(substr($pending, -8)) & 0x10) { ptrace("continue", $thread, 0, 0); stopped($thread) }
  print "$thread of $process was caught at work for CRIU\\n";
}
freezer($word);
`;

function words(program: string, { directory, version }: Freezer, files: readonly string[]): string {
  const machine = machines[process.arch];
  if (machine === undefined) return ':';
  return ['perl', '-e', program, ...machine.map(String), directory, version, ...files].map(quote).join(' ');
}

/**
 * A shell's words that shut the freezer, make the file `mark` in the moment before, and keep in the file `kept` the registers
 * of what it holds. If they fail, the freezer is open or shut.
 */
export function keepRegisters(freezer: Freezer, kept: string, mark: string): string {
  return words(keep, freezer, [kept, mark]);
}

/** A shell's words that give back what was kept to those whom a killed CRIU has left with something else. */
export function healRegisters(freezer: Freezer, kept: string): string {
  return words(heal, freezer, [kept]);
}
