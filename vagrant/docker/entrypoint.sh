#!/bin/sh
# Makes a container fit to be a machine, then becomes its init.
set -eu

# The kubelet reads the kernel log; a container has no /dev/kmsg unless it is privileged.
[ -e /dev/kmsg ] || mknod /dev/kmsg c 1 11

# cgroup hierarchies, of either version, arrive read-only in an unprivileged container.
awk '$3 ~ /^cgroup2?$/ {print $2}' /proc/mounts | while read -r hierarchy; do
  mount -o remount,bind,rw "$hierarchy" 2>/dev/null || true
done

# Pods' volumes must be seen by the kubelet and by containerd alike.
mount --make-rshared /

# Every machine is somebody: its own host key and machine id, made at its first start.
if [ ! -s /etc/machine-id ]; then
  tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id
fi
[ -e /etc/ssh/ssh_host_ed25519_key ] || ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key

# The cluster's own key, bound in when the container was made.
if [ -e /etc/kdiy-authorized_keys ]; then
  install -d -m 0700 -o vagrant -g vagrant /home/vagrant/.ssh
  install -m 0600 -o vagrant -g vagrant /etc/kdiy-authorized_keys /home/vagrant/.ssh/authorized_keys
fi

exec /sbin/init
