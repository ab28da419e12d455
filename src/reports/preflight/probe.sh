# What a machine is like before kdiy touches it, one `key=value` a line; several values of one key
# are several lines. Needs: $own, its address, $others, those of the others, and $etcd, `yes` where
# a member is going to run. Leaves nothing behind.
export LC_ALL=C
say() { printf '%s=%s\n' "$1" "$2"; }

say time "$(date +%s.%N)"
. /etc/os-release
say os "$ID ${VERSION_ID:-rolling}"
say arch "$(uname -m)"
say hostname "$(uname -n)"
say machine_id "$(cat /etc/machine-id 2>/dev/null)"
interfaces=$(ip -o -4 addr show | awk -v own="$own" '{split($4, p, "/"); if (p[1] == own) print $2}')
for interface in $interfaces; do
  say interface "$interface"
  say mac "$(cat "/sys/class/net/$interface/address")"
done
say memory "$(awk '/^MemTotal/ {print int($2 / 1024)}' /proc/meminfo)"
say cpus "$(nproc)"
say disk "$(df -Pm /var/lib | awk 'END {print $4}')"
tail -n +2 /proc/swaps | while read -r area _; do say swap "$area"; done
[ -d /run/systemd/system ] && say systemd yes
if [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]; then say cgroup 2; else say cgroup 1; fi
# What the kubelet needs of cgroups; a kernel may have them, and leave them off.
for controller in cpu cpuset memory pids; do
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    grep -qw $controller /sys/fs/cgroup/cgroup.controllers
  else
    awk '$3 == "cgroup" {print $4}' /proc/mounts | grep -qw $controller
  fi || say controller $controller
done
for file in /boot/firmware/cmdline.txt /boot/cmdline.txt; do [ -e $file ] && say cmdline $file; done
# Units that turn swap on by themselves, whatever swap.target says.
for unit in dphys-swapfile zramswap zram-config zram-swap; do
  if systemctl is-active --quiet $unit || systemctl is-enabled --quiet $unit 2>/dev/null; then
    say swaps $unit
  fi
done
# A container has the clock of its host.
if ! systemd-detect-virt --container --quiet 2>/dev/null; then
  kept=''
  for unit in systemd-timesyncd chrony chronyd ntp ntpd ntpsec openntpd; do
    systemctl is-active --quiet $unit && kept=yes
  done
  [ -n "$kept" ] || say clock free
fi
case $(systemctl show --property DefaultEnvironment 2>/dev/null) in
  *http_proxy=* | *https_proxy=* | *HTTP_PROXY=* | *HTTPS_PROXY=*) say proxy services ;;
esac
# The least of what an account may be given; `Match` blocks may say otherwise.
/usr/sbin/sshd -T 2>/dev/null | awk '$1 == "maxsessions" {print "sessions=" $2}'
cat /run/systemd/resolve/resolv.conf /etc/resolv.conf 2>/dev/null |
  awk '/^nameserver/ && $2 !~ /^127\./ && $2 ~ /^[0-9.]+$/ {there = 1} END {if (!there) print "nameserver=none"}'
for tool in curl tar sha256sum tac awk sed find ip ping ss modprobe useradd; do
  command -v $tool >/dev/null || say lacks $tool
done
grep -qw overlay /proc/filesystems || modprobe --dry-run overlay 2>/dev/null || say module overlay
[ -e /proc/sys/net/bridge ] || modprobe --dry-run br_netfilter 2>/dev/null || say module br_netfilter
ss -Hltn | awk '{n = split($4, p, ":"); print p[n]}' | sort -un | while read -r port; do say port "$port"; done
for unit in kubelet k3s k3s-agent rke2-server rke2-agent k0scontroller k0sworker snap.microk8s.daemon-kubelite \
  containerd docker crio etcd haproxy keepalived ufw firewalld; do
  systemctl is-active --quiet $unit && say active $unit
done
# A file system of its own has a lost+found.
filled() { [ -d "$1" ] && ls -A "$1" | grep -qvx lost+found; }
for path in /etc/rancher /var/lib/k0s /var/snap/microk8s /etc/kubernetes/manifests /var/lib/kubelet; do
  filled $path && say kubernetes $path
done
for path in /var/lib/etcd /var/lib/containerd; do filled $path && say data $path; done
if [ -e /var/lib/kdiy/ledger ]; then say owner "$(cat /var/lib/kdiy/cluster 2>/dev/null | tr '\n' ' ')"; fi
ip -4 route show | while read -r route; do say route "$route"; done
cat /run/systemd/resolve/resolv.conf /etc/resolv.conf 2>/dev/null | awk '/^nameserver/ {print $2}' | sort -u |
  while read -r server; do say nameserver "$server"; done
if [ -e /sys/class/net/cni0 ]; then say cni0 "$(ip -o -4 addr show dev cni0 | awk '{print $4; exit}')"; fi
for file in /etc/cni/net.d/*.conf /etc/cni/net.d/*.conflist /etc/cni/net.d/*.json; do
  [ ! -e "$file" ] || say cni_file "${file##*/}"
done
if command -v nft >/dev/null; then
  say nft "$(nft --version | awk '{print $2}')"
  nft list ruleset 2>/dev/null | awk '/hook (input|forward)/ && /policy drop/ {
    match($0, /hook [a-z]+/); print substr($0, RSTART + 5, RLENGTH - 5)}' | sort -u |
    while read -r hook; do say drops "$hook"; done
fi
if command -v getenforce >/dev/null; then say selinux "$(getenforce)"; fi
if [ "$etcd" = yes ]; then
  # As etcd writes its log: small pieces, each on disk before the next (etcd docs, "Disks").
  file=$(mktemp /var/lib/kdiy-disk.XXXXXX)
  began=$(date +%s%N)
  dd if=/dev/zero of="$file" bs=2300 count=50 oflag=dsync 2>/dev/null
  say fsync_us $((($(date +%s%N) - began) / 50000))
  rm -f "$file"
fi
for other in $others; do
  ping -c 1 -W $((2 * ${KDIY_SLOW:-1})) -q "$other" >/dev/null 2>&1 || say unreached "$other"
done
say done yes
