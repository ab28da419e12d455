# What a restart of systemd-networkd does to a card: its addresses go, one comes back, and of the
# routes only those that the network's own configuration names.
set -eu
routes() { ip -4 route | sort; }
before=$(routes)
default=$(ip -4 route show default)
address=$(ip -4 -o address show dev eth0 | awk 'NR == 1 { print $4 }')
ip -4 address flush dev eth0
ip address add "$address" broadcast + dev eth0
ip route add $default
for _ in $(seq 50); do
  [ "$(routes)" != "$before" ] || exit 0
  sleep 0.1
done
echo "the routes were:"
echo "$before"
echo "and are, five seconds later:"
routes
exit 1
