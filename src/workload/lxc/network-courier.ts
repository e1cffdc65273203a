import { DeltahopError } from '../../errors.js';
import { type Conversing, startConversing } from '../command.js';
import { composeMessage, type NetlinkMessage, netlinkFlags, parseMessages } from './netlink.js';

/** Protocols of netlink(7). */
export const [NETLINK_ROUTE, NETLINK_NETFILTER] = [0, 12] as const;

const EEXIST = 17;
const limitMs = 10_000;

/**
 * A process in a network namespace that carries questions to the kernel there and answers back, and no more: what is asked
 * for is thought out in this one. One line each:
 *
 *     ask PROTOCOL MESSAGE    a message of netlink(7), in hexadecimal; answer: errno, and the messages that came
 *     settings                what there is in /proc/sys/net for this namespace, FILE:VALUE, 1F between
 *     legacy                  the tables of iptables that are not nftables', 1F between
 *     set FILE VALUE          the latter in hexadecimal; answer: nothing
 *
 * One process in place of the many of ip(8) and sysctl(8), each of whose starts a container would stand still for.
 */
const program = `use strict; $| = 1; my %sockets;
while (<STDIN>) {
  my ($verb, @words) = split " ";
  my ($file, @lines);
  if ($verb eq "ask") {
    my ($errno, $answer) = (5, "");
    my $socket = $sockets{$words[0]};
    $socket or socket($socket, 16, 3, $words[0]) or die;
    $sockets{$words[0]} = $socket;
    send($socket, pack("H*", $words[1]), 0) or die;
    my $bytes;
    READ: while (defined recv($socket, $bytes, 1 << 17, 0) and length $bytes) {
      for (my $at = 0; $at + 16 <= length $bytes;) {
        my ($length, $type) = unpack "L S", substr $bytes, $at, 6;
        last READ if $length < 16;
        if ($type == 3) { $errno = 0; last READ }
        if ($type == 2) { $errno = -unpack "l", substr $bytes, $at + 16, 4; last READ }
        $answer .= substr $bytes, $at, ($length + 3) & ~3;
        $at += ($length + 3) & ~3;
      }
    }
    print "$errno ", unpack("H*", $answer), "\\n";
  } elsif ($verb eq "settings") {
    chdir "/proc/sys/net" or die;
    my @directories = qw(core unix ipv4 ipv6);
    for my $list (qw(ipv4/conf ipv6/conf)) {
      opendir($file, $list) and push @directories, map "$list/$_", grep !/^\\./, sort readdir $file;
    }
    for my $directory (@directories) {
      opendir($file, $directory) or next;
      for my $name (map "$directory/$_", sort readdir $file) {
        my ($setting, $value);
        -f $name and open($setting, "<", $name) and sysread($setting, $value, 4096) or next;
        chomp $value;
        push @lines, "$name:$value" if $value !~ /\\n/;
      }
    }
    print join("\\x1f", @lines), "\\n";
  } elsif ($verb eq "legacy") {
    for my $name ("ip_tables_names", "ip6_tables_names") { open($file, "<", "/proc/net/$name") and push @lines, <$file> }
    chomp @lines;
    print join("\\x1f", @lines), "\\n";
  } elsif ($verb eq "set") {
    my $name = "/proc/sys/net/$words[0]";
    -f $name and (stat _)[2] & 0222 and open($file, ">", $name) and syswrite($file, pack "H*", $words[1]);
    print "\\n";
  }
}`;

/** The courier's side of the conversation. */
export class NetworkCourier {
  readonly #process: Conversing;

  private constructor(process: Conversing) {
    this.#process = process;
  }

  /** In the network namespace of a process. */
  static async into(pid: number): Promise<NetworkCourier> {
    return new NetworkCourier(
      await startConversing(['nsenter', `--net=/proc/${pid}/ns/net`, '--', 'perl', '-e', program]),
    );
  }

  /** In a new namespace, which lives as long as the courier unless something else is in it. */
  static async intoNew(): Promise<NetworkCourier> {
    return new NetworkCourier(await startConversing(['unshare', '--net', '--', 'perl', '-e', program]));
  }

  /** Where the namespace is found. True only once the courier has answered something. */
  get path(): string {
    return `/proc/${this.#process.pid}/ns/net`;
  }

  /** All objects of a kind. @throws DeltahopError DELTAHOP_E_WORKLOAD */
  async dump(protocol: number, type: number, body: Buffer): Promise<NetlinkMessage[]> {
    const { errno, messages } = await this.#ask(protocol, composeMessage(type, netlinkFlags.dump, body));
    if (errno !== 0) throw refused(`to show its network’s objects of type ${type}`, errno);
    return messages;
  }

  /** Makes an object of rtnetlink(7). @throws DeltahopError DELTAHOP_E_WORKLOAD */
  async make(what: string, type: number, body: Buffer): Promise<void> {
    const errno = await this.#create(type, body);
    if (errno !== 0) throw refused(`to make ${what}`, errno);
  }

  /** Makes one unless it is there. @throws DeltahopError DELTAHOP_E_WORKLOAD */
  async ensure(what: string, type: number, body: Buffer): Promise<void> {
    const errno = await this.#create(type, body);
    if (errno !== 0 && errno !== EEXIST) throw refused(`to make ${what}`, errno);
  }

  /** Changes one. @throws DeltahopError DELTAHOP_E_WORKLOAD */
  async change(what: string, type: number, body: Buffer): Promise<void> {
    const { errno } = await this.#ask(NETLINK_ROUTE, composeMessage(type, netlinkFlags.ack, body));
    if (errno !== 0) throw refused(`to change ${what}`, errno);
  }

  async #create(type: number, body: Buffer): Promise<number> {
    const { ack, create, exclusive } = netlinkFlags;
    return (await this.#ask(NETLINK_ROUTE, composeMessage(type, ack | create | exclusive, body))).errno;
  }

  /** Takes an object away; that there is none is no error. */
  async remove(type: number, body: Buffer): Promise<void> {
    await this.#ask(NETLINK_ROUTE, composeMessage(type, netlinkFlags.ack, body));
  }

  /** The values in /proc/sys/net that this namespace has for itself, by file. */
  async settings(): Promise<Record<string, string>> {
    const lines = (await this.#process.ask('settings', limitMs)).split('\x1f').filter((line) => line.includes(':'));
    return Object.fromEntries(
      lines.map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1)]),
    );
  }

  /** The tables of iptables that are not nftables'. */
  async legacyTables(): Promise<string[]> {
    return (await this.#process.ask('legacy', limitMs)).split('\x1f').filter((name) => name !== '');
  }

  /** Sets one of them, unless it can only be read. One that this kernel has not, or not with this value, stays as it is. */
  async set(file: string, value: string): Promise<void> {
    await this.#process.ask(`set ${file} ${Buffer.from(value).toString('hex')}`, limitMs);
  }

  /** It is not needed any more. */
  release(): void {
    this.#process.release();
  }

  async #ask(protocol: number, message: Buffer): Promise<{ errno: number; messages: NetlinkMessage[] }> {
    const answer = await this.#process.ask(`ask ${protocol} ${message.toString('hex')}`, limitMs);
    const [errno = '', hex = ''] = answer.split(' ');
    return { errno: Number(errno), messages: parseMessages(Buffer.from(hex, 'hex')) };
  }
}

function refused(what: string, errno: number): DeltahopError {
  return new DeltahopError('DELTAHOP_E_WORKLOAD', `the kernel refuses ${what} (errno ${errno})`);
}
