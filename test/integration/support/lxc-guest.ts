/**
 * What runs in the container of the driver's tests, in Perl because every Debian has that: a child writes 1, 2, 3 … into
 * a pipe every 10 ms; the parent checks that none is missing or doubled, changes a cell of an array for each and keeps
 * the array's sum, writes the number to /count, and answers `K` on TCP port 7 with `K NUMBER FAULTS`. A fault is a gap
 * in the pipe's numbers or an array that does not have its sum: what a bad restore would make.
 */
export const guestProgram = `
use strict; use IO::Socket::INET; use IO::Select;
pipe(my $from, my $to) or die;
my $child = fork;
if (!$child) { my $i = 0; while (1) { $i++; syswrite $to, "$i\\n"; select undef, undef, undef, 0.01 } }
$SIG{TERM} = sub { kill 'KILL', $child; exit 0 };
close $to;
my @cells = map { $_ * 7 } 0 .. 40000;
my $sum = 0; $sum += $_ for @cells;
my ($last, $faults, $rest) = (0, 0, '');
open my $count, '>', '/count' or die;
my $door = $ENV{GUEST_PORT} eq 'none' ? undef : IO::Socket::INET->new(LocalPort => 7, Listen => 5, ReuseAddr => 1);
my $all = IO::Select->new($from); $all->add($door) if $door;
my %asked;
while (1) {
  for my $ready ($all->can_read) {
    if ($ready == $from) {
      sysread $from, $rest, 65536, length $rest;
      while ($rest =~ s/^(\\d+)\\n//) {
        $faults++ if $1 != $last + 1; $last = $1;
        $cells[$last % 40001] += $last; $sum += $last;
        sysseek $count, 0, 0; syswrite $count, "$last\\n";
      }
    } elsif ($door && $ready == $door) { $all->add(scalar $door->accept) }
    else {
      my $n = sysread $ready, my $line, 4096;
      if (!$n) { $all->remove($ready); close $ready; next }
      $asked{$ready} .= $line;
      while ($asked{$ready} =~ s/^(\\d+)\\n//) {
        my $k = $1; my $now = 0; $now += $_ for @cells; $faults++ if $now != $sum;
        syswrite $ready, "$k $last $faults\\n";
      }
    }
  }
}
`;
