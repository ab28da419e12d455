# advert.pl SOURCE SEEN_AS VIP ROUTER_ID SECONDS PEER...
# VRRP 3 adverts (RFC 5798, 5.2) with the highest priority that an election knows, ten a second to
# each peer; with the checksum of what they look like where they arrive, once their source was
# translated. Says how many were sent.
use strict;
use Socket;
use Time::HiRes qw(time sleep);

my ($source, $seen_as, $vip, $router_id, $seconds, @peers) = @ARGV;

sub checksum {
  my $sum = 0;
  $sum += $_ for unpack('n*', $_[0]);
  $sum = ($sum & 0xffff) + ($sum >> 16) while $sum >> 16;
  return ~$sum & 0xffff;
}

socket(my $raw, AF_INET, SOCK_RAW, 255) or die "socket: $!";
setsockopt($raw, 0, 3, pack('i', 1)) or die "IP_HDRINCL: $!";
my $sent = 0;
for (my $end = time + $seconds; time < $end; sleep 0.1) {
  for my $peer (@peers) {
    my ($from, $to) = (inet_aton($source), inet_aton($peer));
    my $advert = pack('CCCCnn', 0x31, $router_id, 254, 1, 50, 0) . inet_aton($vip);
    my $pseudo = inet_aton($seen_as) . $to . pack('CCn', 0, 112, length $advert);
    substr($advert, 6, 2) = pack('n', checksum($pseudo . $advert));
    my $header = pack('CCnnnCCn', 0x45, 0xc0, 20 + length $advert, 0, 0, 255, 112, 0);
    $sent++ if send($raw, $header . $from . $to . $advert, 0, sockaddr_in(0, $to));
  }
}
print "$sent\n";
