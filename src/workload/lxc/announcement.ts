import { quote } from '../verdict.js';

/**
 * What tells a network where a restored container is now; argv: the interface. To be run in the container's network.
 *
 * A request for its own address (RFC 5227, section 3) teaches bridges the port. And what the container had under way when
 * it was saved, its kernel sends as soon as its connections are whole again, off the bridge still: that waits for the
 * address of whom it is for, for which the kernel asks again only a second later. So those are asked for here, too: their
 * answers let go what waits. (To set an interface's MAC to what it is, with arp_notify, announces it too, but throws away
 * what waits; then the service's TCP sends it again at its next time-out.)
 *
 * More than once, since what a bridge or a switch on the way has just learnt of may not pass yet.
 */
const program = `use Socket; my ($name) = @ARGV;
socket(my $socket, 17, SOCK_DGRAM, unpack("S", pack("n", 0x0806))) or die "socket: $!";
sub ask { my $request = pack("a16 x24", $name); ioctl($socket, $_[0], $request) or die "$name: $!"; $request }
my $index = unpack("x16 i", ask(0x8933));
my $mac = unpack("x18 a6", ask(0x8927));
my $own = unpack("x20 a4", ask(0x8915));
for my $pause (0, 0.02, 0.08, 0.4) {
  select(undef, undef, undef, $pause);
  my @addresses = ($own);
  if (open(my $known, "<", "/proc/net/arp")) {
    while (<$known>) {
      my ($address, undef, $flags, undef, undef, $device) = split;
      push @addresses, inet_aton($address) if $device eq $name && hex($flags) == 0;
    }
  }
  for my $address (@addresses) {
    send($socket, pack("n n C C n a6 a4 a6 a4", 1, 0x0800, 6, 4, 1, $mac, $own, "", $address), 0,
      pack("S n i S C C a8", 17, 0x0806, $index, 1, 0, 6, "\\xff" x 6));
  }
}`;

/** A shell's words that announce the container whose first process is `$init`, at its `eth0`. */
export const announce = `nsenter --net=/proc/"$init"/ns/net perl -e ${quote(program)} eth0`;
