import { mkdir, open, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Detached, mustRun, runCommand, startDetached } from '../command.js';
import { isAlive, killProcess, nestedPid, type ProcessIdentity, parseStat } from '../process.js';
import {
  aliveIntervalMs,
  awaitVerdict,
  decide,
  exists,
  giveUp,
  patienceS,
  propose,
  quote,
  ring,
  verdictOf,
  waitUntil,
} from '../verdict.js';
import { announce } from './announcement.js';
import { networkKey } from './container-network.js';
import { type Criu, type Dump, dumpCommand } from './criu.js';
import { onlineProcessors } from './machine.js';
import { type Freezer, healRegisters, keepRegisters } from './registers.js';

/**
 * One dump by CRIU or restore by lxc-checkpoint and CRIU, and the barrier inside it.
 *
 * CRIU calls an action script at fixed points and waits for it (criu(8), --action-script): at `post-dump` a container is
 * stopped and its image complete, and exit code 0 lets CRIU kill it, any other lets it run on. The script waits there for a
 * verdict. It is a process of its own, as is the supervisor that starts the program: neither depends on the agent.
 *
 * At `post-restore` a container is rebuilt and nothing of it runs. The script says so and lets CRIU go on, which leaves it in
 * the freezer and off its bridge (and should it die before, watchers shut that): what CRIU and LXC have yet to do goes on while
 * the nodes still talk. Once both have come to a good end (LXC ends a container whose CRIU did not), the supervisor waits for
 * the verdict, and lets it run or ends it. Everything passes through files of the operation's directory:
 *
 *     kind         round, freeze or prepare
 *     frozen-at    its time of change is the moment before the first process was stopped
 *     stopped      round, freeze: no process runs any more
 *     network      prepare: where the container's network is, if that is made already (see container-network)
 *     go           prepare: the image is complete, CRIU may begin
 *     held         the barrier is reached, of a prepare: but for the ends of CRIU and LXC; of a round: nothing more is asked of
 *                  what stood still for it
 *     verdict      `commit` or `abort`: whoever makes it first has decided (link(2) and O_EXCL see to it)
 *     ended        freeze: killed; nothing of it can run here any more
 *     released     prepare: it runs
 *     init         prepare: /proc/PID/stat of its first process, as soon as there is one
 *     supervisor   /proc/PID/stat of the supervisor
 *     exit-code    of CRIU or lxc-checkpoint, once it has ended
 *     bell         a fifo: any line wakes the script, which then looks for a verdict
 *     criu         round, freeze: /proc/PID/stat of CRIU
 *     lifeline     a file that CRIU has locked for as long as it lives
 *     watched      a fifo that opens once it is locked
 *     registers    round, freeze: of its threads, from before CRIU took hold of them
 *     mending      a dump whose CRIU was killed is being undone
 *     healed       which threads got back their registers then
 *     mended       it was undone
 *
 * No verdict and no ring for {@link patienceS} seconds: the script itself decides `abort`. So a service whose agent has
 * died resumes at the source (presumed abort), and one at the destination is ended, its files kept.
 */
export type OperationKind = 'round' | 'freeze' | 'prepare';

/** What undoes a dump. */
export interface MendPlan {
  /** What was dumped. */
  dump: Pick<Dump, 'initPid' | 'freezer'>;
  networkLock: Criu['networkLock'];
}

/** What the scripts have to know. */
export interface BarrierPlan {
  kind: OperationKind;
  /** argv of what makes or restores the image, with `action` in the operation's directory as action script. */
  command: readonly string[];
  /** How a dump is undone whose CRIU was killed; null for a prepare. */
  mending: MendPlan | null;
  /** The program to be found as `criu`; of a prepare, it starts only once {@link Barrier.openGate} was called. */
  criuProgram: string;
  /** Text of CRIU's configuration file. */
  criuConfig: string;
  /** The container's directory in the freezer's hierarchy; of a prepare: the one it should get (see Cgroup.payload). */
  freezer: Freezer;
  /** The network end on this node, and the bridge (freeze, prepare); null: no network. */
  network: { hostInterface: string; bridge: string } | null;
}

/** A file that appears in the operation's directory. */
export type BarrierEvent = 'stopped' | 'held' | 'ended' | 'released';

/** What it may take to undo a dump. A large image on a slow disk takes minutes. */
const mendLimitMs = 600_000;

/** Shell functions for the freezer of one container. sh alone, no other programs: every fork counts as downtime. */
function freezerFunctions(freezer: BarrierPlan['freezer']): string {
  const v1 = freezer.version === 'v1';
  return `cgroup=${quote(freezer.directory)}
put() { { echo "$1" >"$cgroup/$2"; } 2>/dev/null; }
frozen() {
  ${v1 ? `read -r state <"$cgroup/freezer.state" && [ "$state" = FROZEN ]` : `while read -r key value; do [ "$key $value" = 'frozen 1' ] && return 0; done <"$cgroup/cgroup.events"; return 1`}
}
thaw() { ${v1 ? 'put THAWED freezer.state' : 'put 0 cgroup.freeze'}; }
thaw_any() { for cgroup in "$cgroup" "$cgroup"-*; do thaw; done; }
close() { ${v1 ? 'put FROZEN freezer.state' : 'put 1 cgroup.freeze'}; }
kill_any() { for cgroup in "$cgroup" "$cgroup"-*; do kill_all; thaw; done; }
close_any() { for cgroup in "$cgroup" "$cgroup"-*; do close; done; }
freeze() {
  close
  for pause in 0.005 0.005 0.005 0.005 0.005 0.005 0.01 0.02 0.05 0.1 0.3 0.5 1 1 1 1 5; do
    for again in 0 1 2 3 4 5 6 7 8 9; do frozen && return 0; done
    sleep "$pause"
  done
  return 1
}
kill_all() {
  ${v1 ? '' : 'put 1 cgroup.kill && return 0'}
  for list in "$cgroup"/cgroup.procs "$cgroup"/*/cgroup.procs "$cgroup"/*/*/cgroup.procs "$cgroup"/*/*/*/cgroup.procs; do
    [ -e "$list" ] || continue
    while read -r pid; do kill -KILL "$pid"; done <"$list"
  done 2>/dev/null
}
`;
}

/** What stops a container before CRIU does, from the operation's directory; exits if it cannot, or need not any more. */
function stopLines(freezer: Freezer): string {
  return `  [ ! -e verdict ] || exit 1
  # CRIU looks whether the freezer has done its work only every 100 ms; finding it done saves that. And only of a container
  # that it finds frozen does the image say so, which a restore relies on.
  ${keepRegisters(freezer, 'registers', 'frozen-at')} >/dev/null 2>&1
  [ -e frozen-at ] || : >frozen-at
  freeze || exit 1
  : >stopped`;
}

/** The action script's text. */
export function actionScript(directory: string, plan: BarrierPlan): string {
  const { network } = plan;
  const interfaceName = network === null ? '' : quote(network.hostInterface);
  const head = `#!/bin/sh
# Written by deltahop for one operation; see its source, workload/lxc/barrier.
trap '' HUP INT TERM
cd ${quote(directory)} || exit 1
`;
  if (plan.kind === 'prepare') {
    // Up before it is on the bridge: the kernel takes up to 100 ms until an interface whose carrier came sends anything.
    const raise = network === null ? ':' : `ip link set dev ${interfaceName} up`;
    // A v1 image says that the container was frozen, which it was, so CRIU itself shuts the freezer after this script.
    const fence = plan.freezer.version === 'v1' ? '' : 'pre-resume) close_any ;;\n';
    return `${head}${freezerFunctions(plan.freezer)}
[ -z "$CRTOOLS_INIT_PID" ] || [ -e init ] || { read -r line <"/proc/$CRTOOLS_INIT_PID/stat" && echo "$line" >init; }
case $CRTOOLS_SCRIPT_ACTION in
pre-restore) [ ! -e verdict ] || exit 1 ;;
post-setup-namespaces) [ -e network ] || ${raise} ;;
post-restore) [ ! -e verdict ] && : >held || exit 1 ;;
${fence}esac
exit 0
`;
  }
  const detach = network === null ? ':' : `ip link set dev ${interfaceName} nomaster`;
  const postDump =
    plan.kind === 'round'
      ? '[ ! -e verdict ] || exit 1\n  : >held'
      : // Off the bridge nothing reaches its connections any more, whoever unlocks the network: what its kernel took in then
        // would be lost to the copy that goes on, and what it said at their end would end them there too.
        `: >stopped
  ${detach}
  : >held
  if await_verdict; then
    kill_all
    : >ended
    thaw
  else
    # Not thawed: if CRIU is dead by now, its dump has to be undone first (see the supervisor).
    exit 1
  fi`;
  return `${head}${freezerFunctions(plan.freezer)}${plan.kind === 'freeze' ? awaitVerdict : ''}
case $CRTOOLS_SCRIPT_ACTION in
pre-dump)
${stopLines(plan.freezer)}
  ;;
post-dump)
  # The freezer is a fence: should CRIU die from here on, its tracees would run on without it.
  freeze
  ${postDump}
  ;;
esac
exit 0
`;
}

/**
 * What LXC starts as `criu`: LXC has set up by then what it sets up for a restore, and the image need not be complete
 * before. Waits like a barrier's script, in a process of its own, since LXC has handed on descriptors of its choice. It is
 * run twice: what it becomes takes the lock for CRIU, which follows it in the same process, beside the wait.
 */
export function gateScript(directory: string, criuProgram: string): string {
  const at = (name: string): string => quote(join(directory, name));
  return `#!/bin/sh
# Written by deltahop for one operation; see its source, workload/lxc/barrier.
if [ "$1" = restore ] && [ ! -e ${at('lifeline')} ]; then
  # Keeps its number free for what is opened below.
  exec 9</dev/null
  exec perl -e ${quote(lockLifeline)} ${at('lifeline')} ${at('watched')} "$0" "$@"
fi
[ "$1" != restore ] || (
  cd ${quote(directory)} && exec 3<>bell || exit 1
  while [ ! -e go ]; do
    [ ! -e verdict ] && timeout -s KILL ${patienceS} head -n 1 <&3 >/dev/null 2>&1 || exit 1
  done
) || exit 1
if [ "$1" = restore ] && [ -e ${at('network')} ]; then
  read -r network <${at('network')} && exec 9<"$network" || exit 1
  set -- "$@" --inherit-fd 'fd[9]:${networkKey}'
fi
exec ${quote(criuProgram)} "$@"
`;
}

/**
 * What is started as `criu` for a dump: CRIU, which leaves word of who it is. Where memory is short, it is the last that
 * the kernel kills: what it has stopped would suffer for it.
 *
 * Of a pre-dump CRIU calls no action script, so what one does at the stop is done here. CRIU leaves the freezer shut when
 * it has all pages in hand, and has yet to write them: to let the container run meanwhile, somebody looks for the first
 * file of pages of a process, which CRIU makes just then (criu/cr-dump.c, cr_pre_dump_finish, as of 4.2).
 */
function namedScript(directory: string, { criuProgram, freezer }: BarrierPlan): string {
  return `#!/bin/sh
# Written by deltahop for one operation; see its source, workload/lxc/barrier.
cd ${quote(directory)} || exit 1
[ "$1" != dump ] && [ "$1" != pre-dump ] || {
  read -r line <"/proc/$$/stat" && echo "$line" >criu
  { echo -1000 >/proc/self/oom_score_adj; } 2>/dev/null
  [ "$1" != pre-dump ] || {
${freezerFunctions(freezer)}
${stopLines(freezer)}
    while kill -0 $$; do
      for pages in images/pagemap-[0-9]*.img; do
        [ ! -e "$pages" ] || { : >held; thaw; exit; }
      done
      sleep 0.002
    done </dev/null >/dev/null 2>&1 &
  }
  exec perl -e ${quote(lockLifeline)} lifeline watched ${quote(criuProgram)} "$@"
}
exec ${quote(criuProgram)} "$@"
`;
}

/**
 * Shuts the freezer in the moment in which CRIU dies where nothing but its trace holds the processes: before the barrier of a
 * dump, where the action script shuts it, and behind that of a restore, until CRIU itself does. A dying process closes its
 * files before it lets go of what it traces. There is one of these on each processor: the one on that of the dying CRIU comes
 * before it goes on, however long the others take. They wait for a lock of fcntl(2), which is the process's own: what CRIU has
 * forked to save a namespace lives on.
 */
function watcherScript(directory: string, { kind, freezer: { directory: cgroup, version } }: BarrierPlan): string {
  const [file, word] = version === 'v1' ? ['freezer.state', 'FROZEN'] : ['cgroup.freeze', '1'];
  const over = kind === 'prepare' ? 'released' : 'held';
  return `#!/bin/sh
# Written by deltahop for one operation; see its source, workload/lxc/barrier.
cd ${quote(directory)} && exec <watched || exit 1
exec perl -e ${quote(awaitUnlock)} lifeline ${over} ${quote(cgroup)} ${file} ${word}
`;
}

/** Of `struct flock` on 64 bits: type, whence, start, length, process. */
const flockBytes = 'pack("s s x4 q q l x4", $type, 0, 0, 0, 0)';

/** argv: the lifeline, the fifo, and what to become. The lock goes over to that, and not to what that forks. */
const lockLifeline = `use Fcntl; $^F = 255; my ($file, $fifo) = splice @ARGV, 0, 2; my $type = F_WRLCK;
open(my $lock, "+>", $file);
fcntl($lock, F_SETLKW, ${flockBytes}) and open(my $open, "+<", $fifo);
exec @ARGV`;

/**
 * argv: the lifeline, what there is when the freezer is somebody else's business, the freezer's directory, its file, and what
 * shuts it. That of a restore comes into being meanwhile, with a number behind its name where LXC finds another.
 */
const awaitUnlock = `use Fcntl; my $type = F_RDLCK; my ($lifeline, $over, $cgroup, $file, $word) = @ARGV;
open(my $lock, "<", $lifeline) or exit 1;
fcntl($lock, F_SETLKW, ${flockBytes}) or exit 1;
exit if -e $over;
for ("", map { "-$_" } 1 .. 9) { open(my $freezer, ">", "$cgroup$_/$file") or next; syswrite($freezer, $word) }`;

/**
 * Undoes a dump whose CRIU was killed: that leaves the container's network locked and its connections in repair mode,
 * and a process that sends on one then gets an error and drops it. So before anything runs, the lock is taken away, and
 * another dump, which lets the container run, takes the connections out of repair at its end.
 *
 * Puts the container back on its bridge, and leaves it frozen if it had anything to undo. Does nothing the second time.
 */
function mendScript(directory: string, plan: BarrierPlan, { dump, networkLock }: MendPlan): string {
  const unlock = {
    // The table's name has an identity of that CRIU's run.
    nftables: `inside nft list tables | while read -r _ family name; do
  case $name in CRIU-*) inside nft delete table "$family" "$name" ;; esac
done`,
    iptables: `for program in iptables ip6tables; do
  for chain in INPUT OUTPUT; do inside "$program" -w -D "$chain" -j CRIU; done
  inside "$program" -w -F CRIU && inside "$program" -w -X CRIU
done`,
  }[networkLock];
  const { network } = plan;
  const attach =
    plan.kind === 'round' || network === null
      ? ':'
      : `ip link set dev ${quote(network.hostInterface)} master ${quote(network.bridge)}`;
  const images = join(directory, 'mend-images');
  const argv = dumpCommand({ ...dump, mode: 'round', images, actionScript: join(directory, 'action.mend') });
  return `#!/bin/sh
# Written by deltahop for one operation; see its source, workload/lxc/barrier.
trap : HUP INT TERM
cd ${quote(directory)} || exit 1
export CRIU_CONFIG_FILE=${quote(join(directory, 'criu.conf'))} PATH=${quote(join(directory, 'bin'))}:"$PATH"
${freezerFunctions(plan.freezer)}
inside() { nsenter --net=/proc/${dump.initPid}/ns/net "$@"; }
lives() {
  { read -r line <criu && set -- $line && started=\${22} && read -r line <"/proc/$1/stat" && set -- $line; } 2>/dev/null &&
    [ "\${22}" = "$started" ] && [ "$3" != Z ] && [ "$3" != X ]
}
# The last step, whatever the others come to.
trap ${quote(attach)} EXIT
[ -e criu ] && [ ! -e mended ] || exit 0
# If it was the supervisor that was killed, CRIU comes to its end.
while lives; do sleep 0.02; done
# What it does last of all, be it for good or bad.
[ ! -e images/stats-dump ] && [ ! -e stats-dump ] || exit 0
grep -qis 'dumping FAILED' images/dump.log dump.log && exit 0
unlock() {
${unlock.replaceAll(/^/gm, '  ')}
}
freeze
: >mending
${healRegisters(plan.freezer, 'registers')} >healed 2>&1
freeze
unlock
# What CRIU's code in a process has open: its log, which lies outside of the container. The code itself ends when it runs on.
while read -r pid; do
  for fd in /proc/"$pid"/fd/*; do
    [ "$fd" -ef images/dump.log ] || [ "$fd" -ef dump.log ] || continue
    while read -r key value; do [ "$key" != mnt_id: ] || mount=$value; done <"/proc/$pid/fdinfo/\${fd##*/}"
    printf 'external file[%x:%x]\n' "$mount" "$(stat -L -c %i "$fd")" >>criu.conf
  done
done <"$cgroup/cgroup.procs"
# The action is one by whose name it is found like any other CRIU of this operation.
mkdir -p -m 700 mend-images && ${argv.map(quote).join(' ')} && : >mended
unlock
cp mend-images/dump.log mend.log 2>/dev/null
rm -rf mend-images mending
[ -e mended ]
`;
}

/** The supervisor's lines that let a restored container run, or end it. */
function releaseLines({ network }: BarrierPlan): string {
  const attach =
    network === null ? ':' : `ip link set dev ${quote(network.hostInterface)} master ${quote(network.bridge)} up`;
  // In this order: what may have run must never be taken for what has not, and restored once more. The announcement goes on
  // in the background: the agent waits for this script.
  return `if [ "$code" != 0 ] || ! read -r init line <init; then
  ${giveUp}
elif ! await_verdict; then
  kill_any
elif ${attach}; then
  : >released
  thaw_any
  ${network === null ? ':' : `${announce} </dev/null >/dev/null 2>&1 &`}
fi
`;
}

/**
 * The supervisor's text: the parent of CRIU or lxc-checkpoint, which leaves no fence behind however that ends.
 *
 * @param processors Numbers of this machine's processors.
 */
export function supervisorScript(directory: string, plan: BarrierPlan, processors: readonly number[]): string {
  // If it ended before a verdict, it, CRIU or the script was killed: the others, who may live, must not wait for one any
  // more. And from the thaw on the image is older than the service, and must not be what it is given up for. CRIU leaves the
  // freezer as it found it, so the thaw after it is needed in good and in bad cases.
  const letGo =
    plan.kind === 'prepare'
      ? releaseLines(plan)
      : `${plan.kind === 'round' ? '' : `${giveUp}\n`}verdict=
{ read -r verdict <verdict; } 2>/dev/null
if [ "$verdict" = commit ]; then kill_all; else /bin/sh ./mend; fi
thaw
`;
  return `#!/bin/sh
# Written by deltahop for one operation; see its source, workload/lxc/barrier.
# Not ignored but caught, so that what it starts has the default: CRIU ends a helper of its own by SIGTERM when it
# restores a process of several threads, and waits for it.
trap : HUP INT TERM
cd ${quote(directory)} || exit 1
read -r line </proc/$$/stat && echo "$line" >supervisor
${freezerFunctions(plan.freezer)}
${plan.kind === 'prepare' ? awaitVerdict : ''}watchers=
for processor in ${processors.join(' ')}; do
  taskset -c "$processor" chrt -f 50 /bin/sh ./watch 2>/dev/null &
  watchers="$watchers $!"
done
${plan.command.map(quote).join(' ')}
code=$?
kill -KILL $watchers 2>/dev/null
wait $watchers
${letGo}echo "$code" >exit-code.new && mv exit-code.new exit-code
exit "$code"
`;
}

/** The barrier of one operation, from the agent's side. */
export class Barrier {
  readonly directory: string;
  readonly #supervisor: Detached;
  #alive: NodeJS.Timeout | undefined;
  #held = false;
  #decided = false;

  private constructor(directory: string, supervisor: Detached) {
    this.directory = directory;
    this.#supervisor = supervisor;
  }

  /** Writes the scripts and starts CRIU or lxc-checkpoint. The directory must not exist yet. */
  static async start(directory: string, plan: BarrierPlan): Promise<Barrier> {
    const at = (name: string) => join(directory, name);
    await mkdir(at('bin'), { recursive: true, mode: 0o700 });
    const processors = await onlineProcessors();
    await Promise.all([
      writeFile(at('kind'), plan.kind),
      // Now, since at the decision the disk may be full.
      propose(directory, 'commit'),
      propose(directory, 'abort'),
      writeFile(at('action'), actionScript(directory, plan), { mode: 0o700 }),
      writeFile(at('supervise'), supervisorScript(directory, plan, processors), { mode: 0o700 }),
      writeFile(at('criu.conf'), plan.criuConfig),
      writeFile(at('watch'), watcherScript(directory, plan), { mode: 0o700 }),
      // The first program called `criu` on PATH: LXC's, and ours.
      ...(plan.mending === null
        ? [writeFile(at('bin/criu'), gateScript(directory, plan.criuProgram), { mode: 0o700 })]
        : [
            writeFile(at('bin/criu'), namedScript(directory, plan), { mode: 0o700 }),
            writeFile(at('mend'), mendScript(directory, plan, plan.mending), { mode: 0o700 }),
            writeFile(at('action.mend'), '#!/bin/sh\n', { mode: 0o700 }),
            mkdir(at('images'), { mode: 0o700 }),
          ]),
      mustRun(['mkfifo', '-m', '600', at('bell'), at('watched')], {
        limitMs: 10_000,
        code: 'DELTAHOP_E_IO',
      }),
    ]);
    const output = await open(at('output'), 'a');
    try {
      const env = { CRIU_CONFIG_FILE: at('criu.conf'), PATH: `${at('bin')}:${process.env['PATH'] ?? ''}` };
      const barrier = new Barrier(directory, await startDetached(['/bin/sh', at('supervise')], output.fd, env));
      // The memory may take its time to arrive.
      if (plan.kind === 'prepare') barrier.#keepAlive();
      return barrier;
    } finally {
      await output.close();
    }
  }

  /**
   * Waits for an event. From `held` on signs of life go to the script, until {@link decide}.
   *
   * @returns false if all that could make it has ended without it.
   * @throws DeltahopError DELTAHOP_E_CANCELLED, DELTAHOP_E_TIMEOUT
   */
  async until(event: BarrierEvent, limitMs: number, signal?: AbortSignal): Promise<boolean> {
    const there = await waitUntil(this.directory, limitMs, signal, async () => {
      if (await exists(join(this.directory, event))) return true;
      if (!this.#supervisor.hasEnded() || (await isAtWork(this.directory))) return null;
      // Looked for once more after the end: it may have come just before.
      return exists(join(this.directory, event));
    });
    if (event === 'held' && there) {
      this.#held = true;
      this.#keepAlive();
    }
    return there;
  }

  /**
   * Of a prepare: the image is complete.
   *
   * @param network Path of the network namespace that the container is to have; null: CRIU makes it.
   */
  async openGate(network: string | null): Promise<void> {
    if (network !== null) await writeFile(join(this.directory, 'network'), `${network}\n`);
    await writeFile(join(this.directory, 'go'), '');
    await ring(this.directory);
  }

  /** When something happened, as Date.now() of this node; it must have happened. */
  async timeOf(mark: 'frozen-at' | 'go' | 'held'): Promise<number> {
    return (await stat(join(this.directory, mark))).mtimeMs;
  }

  #keepAlive(): void {
    clearInterval(this.#alive);
    this.#alive = setInterval(() => void ring(this.directory), aliveIntervalMs);
    this.#alive.unref();
  }

  /** Gives the verdict. @returns the one that holds: the script may have lost patience before. */
  async decide(verdict: 'commit' | 'abort'): Promise<'commit' | 'abort'> {
    clearInterval(this.#alive);
    this.#decided = true;
    return decide(this.directory, verdict);
  }

  /** Whether the barrier was reached. */
  get wasHeld(): boolean {
    return this.#held;
  }

  /** Fulfilled, with its exit code, once the service has gone on though nobody here said so; never, if somebody did. */
  async gaveWay(): Promise<number | null> {
    const exitCode = await this.#supervisor.ended;
    // A supervisor that was killed says nothing about the barrier.
    if (this.#decided || (await verdictOf(this.directory)) !== 'abort') await new Promise(() => {});
    return exitCode;
  }

  /**
   * Fulfilled with the exit code of CRIU or lxc-checkpoint once nothing of the operation is at work any more; null if it was
   * killed or had to be, for which `limitMs` is the bound.
   */
  async ended(limitMs: number): Promise<number | null> {
    clearInterval(this.#alive);
    let code = await this.#endedWithin(limitMs);
    if (code === 'late' && (await exists(join(this.directory, 'mending')))) code = await this.#endedWithin(mendLimitMs);
    if (code === 'late') this.#supervisor.kill();
    await endWork(this.directory, code === 'late' ? 0 : limitMs);
    return code === 'late' ? null : code;
  }

  async #endedWithin(limitMs: number): Promise<number | null | 'late'> {
    const timeout = new AbortController();
    const late = sleep(limitMs, 'late' as const, { signal: timeout.signal }).catch(() => null);
    try {
      return await Promise.race([this.#supervisor.ended, late]);
    } finally {
      timeout.abort();
    }
  }
}

/**
 * Undoes the dump of the operation in `directory` if its CRIU was killed and its supervisor, whose business that is, too.
 * Leaves the container frozen then. @returns false if it could not.
 */
export async function mend(directory: string): Promise<boolean> {
  const script = join(directory, 'mend');
  if (!(await exists(script))) return true;
  return (await runCommand(['/bin/sh', script], { limitMs: mendLimitMs })).exitCode === 0;
}

/** What an operation left in its directory, for recovery. */
export interface Remnant {
  kind: OperationKind;
  verdict: 'commit' | 'abort' | null;
  /** Whether the barrier was reached. */
  held: boolean;
  /** Whether the restored service ran. */
  released: boolean;
  /** The supervisor; null if it never began. */
  supervisor: ProcessIdentity | null;
  /** The first process of a restored container; null if there was none. */
  init: ProcessIdentity | null;
}

/** Reads what an operation left; null if there is none. */
export async function readRemnant(directory: string): Promise<Remnant | null> {
  if (!(await exists(directory))) return null;
  const kind = await readFile(join(directory, 'kind'), 'utf8').catch(() => '');
  const identity = async (name: string) => {
    const text = await readFile(join(directory, name), 'utf8').catch(() => '');
    return parseStat(text);
  };
  return {
    kind: kind === 'freeze' || kind === 'prepare' ? kind : 'round',
    verdict: await verdictOf(directory),
    held: await exists(join(directory, 'held')),
    released: await exists(join(directory, 'released')),
    supervisor: await identity('supervisor'),
    init: await identity('init'),
  };
}

/**
 * CRIU and the script of the operation in `directory`: they outlive their supervisor and lxc-checkpoint if those are
 * killed. What CRIU restores has its name and arguments for a while, but a process number of its own container.
 */
async function workersOf(directory: string): Promise<number[]> {
  const script = join(directory, 'action');
  const found: number[] = [];
  for (const entry of await readdir('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    const [program, ...args] = (await readFile(`/proc/${entry}/cmdline`, 'utf8').catch(() => '')).split('\0');
    if (program === 'lxc-checkpoint' || !args.some((word) => word.includes(script))) continue;
    const pid = Number(entry);
    if ((await isAlive(pid)) && (await nestedPid(pid)) === null) found.push(pid);
  }
  return found;
}

/** Whether CRIU or the script of the operation in `directory` lives. */
async function isAtWork(directory: string): Promise<boolean> {
  return (await workersOf(directory)).length > 0;
}

/** Waits until they have ended, and ends them if that takes longer. */
export async function endWork(directory: string, limitMs: number): Promise<void> {
  const deadline = Date.now() + limitMs;
  for (;;) {
    const workers = await workersOf(directory);
    if (workers.length === 0) return;
    if (Date.now() >= deadline) for (const pid of workers) killProcess(pid);
    await sleep(20);
  }
}
