# Prints all that a cluster could leave on a machine, one line a thing, in a stable order.
export LC_ALL=C

# Root's and the state directories with digests; the rest by name, mode and size. Logs and caches
# grow by themselves.
find / /var/lib -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp \
  -o -path /var/log -o -path /var/cache -o -path /var/tmp \) -prune -o -printf '%y %m %u:%g %p %l\n' | sort -u |
  sed 's/^/path /'
find /etc /usr/local /opt /var/lib /root /home -xdev -type f -exec sha256sum {} + | sort -k2 |
  sed 's/^/digest /'
sha256sum /etc/hosts /etc/fstab 2>/dev/null | sed 's/^/digest /'
ls /run | sed 's/^/run /'
getent passwd | sed 's/^/user /'
getent group | sed 's/^/group /'
systemctl list-unit-files --no-legend --plain | awk '{print "unit-file", $1, $2}' | sort
systemctl list-units --no-legend --plain --type=service,socket,timer,target,mount |
  awk '{print "unit", $1, $3, $4}' | sort
nft --stateless list ruleset | sed '/^#/d; s/^/nft /'
ip -o link | awk -F': ' '{print "link", $2}'
ip -o addr | awk '{print "address", $2, $3, $4}'
ip route show table all | sed 's/^/route /'
awk '{print "mount", $1, $2, $3}' /proc/mounts | sort
sysctl net.ipv4.ip_forward net.ipv4.conf.all net.ipv4.conf.default net.bridge 2>/dev/null |
  sed 's/^/sysctl /'
ip netns list | sed 's/^/namespace /'
pgrep -af '^/usr/local/bin/containerd-shim' | sed 's/^[0-9]* /shim /'
# Before anything sorts them: ps sees what else is in its pipe, or it does not.
processes=$(ps -e -o comm=)
printf '%s\n' "$processes" | sort -u | sed 's/^/process /'
