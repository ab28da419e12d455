# What an owner has on a machine before kdiy comes, in the very places that kdiy works in.
set -e
# Network namespaces, by hand and as podman makes them with CNI.
ip netns add owner
ip netns add cni-11111111-2222-3333-4444-555555555555
mkdir -p /var/lib/cni/results /var/lib/cni/networks/podman
echo '{"kind":"cniCacheV1","containerId":"abc","networkName":"podman","sandbox":"/run/netns/cni-11111111-2222-3333-4444-555555555555"}' \
  >/var/lib/cni/results/podman-abc-eth0
echo abc >/var/lib/cni/networks/podman/10.88.0.2
# Rules: chains with CNI's names, one of an owner who likes the name, and tables of their own.
iptables -N CNI-OWNER
iptables -A CNI-OWNER -j RETURN
iptables -A INPUT -j CNI-OWNER
iptables -t nat -N CNI-HOSTPORT-DNAT
iptables -t nat -N CNI-DN-0123456789abcdef
iptables -t nat -A CNI-DN-0123456789abcdef -p tcp --dport 8081 -j DNAT --to-destination 10.88.0.2:80
iptables -t nat -A CNI-HOSTPORT-DNAT -p tcp --dport 8081 -m comment --comment 'dnat name: "podman" id: "abc"' \
  -j CNI-DN-0123456789abcdef
iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
nft 'add table inet owner; add chain inet owner CNI-OWN; add chain inet owner input { type filter hook input priority 5; }'
# A shim of another containerd, started from where kdiy puts its own.
cat >/usr/local/sbin/owner-shim <<'END'
#!/bin/bash
exec -a /usr/local/bin/containerd-shim-runc-v2 bash -c 'while :; do sleep 86400; done' \
  -namespace owner -id 1 -address /run/owner/containerd.sock
END
chmod 755 /usr/local/sbin/owner-shim
systemd-run --quiet --unit owner-shim /usr/local/sbin/owner-shim
mkdir -p /run/owner /run/containerd-owner/io.containerd.runtime.v2.task/k8s.io
mount -t tmpfs owner /run/containerd-owner
mkdir -p /opt/owner
mount -t tmpfs owner /opt/owner
# Files that kdiy writes into as well, one of which does not end its last line.
echo 'net.ipv4.conf.all.log_martians = 1' >/etc/sysctl.d/99-owner.conf
sysctl --quiet --load /etc/sysctl.d/99-owner.conf
echo 'Defaults timestamp_timeout=7' >/etc/sudoers.d/owner
printf '/dev/sdz none swap sw 0 0\n# kdiy: /dev/sdy none swap sw 0 0\n' >>/etc/fstab
{
  printf '127.0.1.1 old.example old\n# kdiy: 127.0.1.1 elsewhere\n'
  cat /etc/hosts
  printf '10.9.9.9 not-ended'
} >/tmp/hosts
cat /tmp/hosts >/etc/hosts
rm /tmp/hosts
# A disk for etcd, and a directory that waits for volumes.
mkdir -p /var/lib/etcd /var/lib/kdiy-volumes
mount -t tmpfs disk /var/lib/etcd
mkdir /var/lib/etcd/lost+found
chmod 755 /var/lib/etcd
echo kept >/var/lib/kdiy-volumes/owner
ip link add veth-owner type veth peer name owner-peer
ip route add 198.51.100.0/24 via 172.30.59.1
