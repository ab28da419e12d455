# Takes away from this machine what its ledger names, the last thing first, and then looks at each
# thing once more. May be run again after any interruption. Every line that begins with "@kdiy " is
# for the driver. Needs: $ports, which the cluster's programs listened on.
# shellcheck disable=SC2154
set -u
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
state=/var/lib/kdiy
failed='' packages='' purged='' resume='' tab=$(printf '\t')

did() { printf '@kdiy did %s\n' "$*"; }
doing() { printf '@kdiy doing %s\n' "$*"; }
trouble() { printf '@kdiy fail %s\n' "$*"; failed=yes; }
saw() { printf '@kdiy saw %s\n' "$*"; }

# path
mounts_in() { awk -v top="$1/" 'index($2, top) == 1 {print $2}' /proc/mounts | sort -r; }

# path: what is mounted in it is no part of it
unmount_in() { mounts_in "$1" | while read -r at; do umount "$at" || umount --lazy "$at"; done; }

# name enabled active: as before, once the files it reads are as before as well
remove_unit() {
  doing "stopping $1"
  # An api-server waits for its clients' watches to end; here nobody needs to be waited for.
  timeout 10 systemctl stop "$1" 2>/dev/null || {
    systemctl kill --signal=KILL "$1" 2>/dev/null
    systemctl stop "$1" 2>/dev/null
  }
  case $2 in enabled | static | indirect | generated) ;; *) systemctl disable --quiet "$1" 2>/dev/null ;; esac
  systemctl reset-failed "$1" 2>/dev/null
  if systemctl is-active --quiet "$1"; then trouble "$1 does not stop"; else did "stopped $1"; fi
  [ "$3" != active ] || resume="$resume $1"
}

# path before
remove_file() {
  if [ "$2" = kept ]; then
    rm -f "$1.kdiy-staged"
    mkdir -p "$(dirname "$1")" && cp -a "$state/kept$1" "$1.kdiy-new" && mv -f "$1.kdiy-new" "$1" &&
      did "restored $1" || trouble "could not restore $1"
  else
    rm -f "$1" "$1.kdiy-new" "$1.kdiy-staged" && did "removed $1" || trouble "could not remove $1"
  fi
}

# path
is_mount() { awk -v at="$1" '$2 == at {found = 1} END {exit !found}' /proc/mounts; }

# path: with all that was put in it since. Where its owner mounted something by now, that stays.
remove_directory() {
  [ -e "$1" ] || [ -L "$1" ] || return
  if is_mount "$1"; then
    empty_directory "$1" empty
    did "left $1 empty, because something is mounted there now"
    return
  fi
  unmount_in "$1"
  rm -rf --one-file-system "$1"
  if [ -e "$1" ]; then trouble "could not remove $1"; else did "removed $1"; fi
}

# path before: it was there, and held what is listed in the file `before`; `empty` is an older
# kdiy's word for nothing. A file system's own directory is no content.
empty_directory() {
  [ -d "$1" ] || return
  for entry in "$1"/* "$1"/.[!.]* "$1"/..?*; do
    [ -e "$entry" ] || [ -L "$entry" ] || continue
    name=${entry##*/}
    [ "$name" != lost+found ] || continue
    [ "$2" = empty ] || ! grep -qxF -- "$name" "$2" || continue
    remove_directory "$entry"
  done
}

# name
remove_user() {
  id -u "$1" >/dev/null 2>&1 || return
  userdel "$1" || { trouble "could not remove the user $1"; return; }
  ! getent group "$1" >/dev/null || groupdel "$1"
  did "removed user $1"
}

# package: whether it is there, if only half
is_installed() {
  if command -v dpkg-query >/dev/null 2>&1; then
    case $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) in
      '' | not-installed | config-files) return 1 ;;
    esac
  else
    rpm -q "$1" >/dev/null 2>&1
  fi
}

# name before: of a package whose settings were there before, those stay
note_package() {
  packages="$packages $1"
  [ "$2" = config-files ] || purged="$purged $1"
}

# Only what nothing else needs by now: dpkg and rpm refuse to break a dependency.
# shellcheck disable=SC2086
remove_packages() {
  [ -n "$packages" ] || return
  doing "removing packages"
  if command -v dpkg >/dev/null; then
    dpkg --remove $packages
    [ -z "$purged" ] || dpkg --purge $purged
  else
    rpm --erase $packages
  fi
  for package in $packages; do
    if is_installed "$package"; then
      did "left the package $package, because others need it now"
    else
      did "removed the package $package"
    fi
  done
}

# path: a file of the owner's may also be one of a package's settings, and go with it
restore_again() {
  [ -e "$1" ] || [ -L "$1" ] || remove_file "$1" kept
}

# Runs the ledger backwards. First all programs end, then what they did outside of files is undone:
# one that still ran would do it again (kube-proxy keeps a chain of the kubelet's), and an undo may
# need files that came later than itself.
end_programs() {
  while IFS=$tab read -r what which before <&3; do
    [ "$what" != unit ] || remove_unit "$which" "${before%% *}" "${before##* }"
  done 3<"$state/backwards"
  while IFS=$tab read -r what which before <&3; do
    [ "$what" = undo ] || continue
    /bin/sh -eu "$state/undo/$which" && did "undid $which" || trouble "could not undo $which"
  done 3<"$state/backwards"
}

take_away() {
  while IFS=$tab read -r what which before <&3; do
    case $what in
      unit | undo) ;;
      file) remove_file "$which" "$before" ;;
      directory | contents)
        case $which in
          # Others make network namespaces as well. An older kdiy entered these as its own.
          /run/netns | /run/cni | /var/lib/cni) remove_empty "$which" "$before" ;;
          *) if [ "$what" = directory ]; then remove_directory "$which"; else empty_directory "$which" "$before"; fi ;;
        esac
        ;;
      parent) remove_empty "$which" absent ;;
      settled) settle_again "$which" "${before%% *}" "${before#* }" ;;
      user) remove_user "$which" ;;
      package) note_package "$which" "$before" ;;
      *) trouble "the ledger has a line that this kdiy does not know: $what $which" ;;
    esac
  done 3<"$state/backwards"
}

# path mode owner: as it was, unless another step had made it and it is gone by now
settle_again() {
  ! [ -e "$1" ] || { chown "$3" "$1" && chmod "$2" "$1"; } || trouble "could not settle $1"
}

# path before
remove_empty() {
  [ "$2" != absent ] || ! [ -d "$1" ] || rmdir --ignore-fail-on-non-empty "$1"
}

# Processes of programs that are gone by now, of whatever name they run under.
survivors() {
  awk -F"$tab" '$1 == "file" && $3 == "absent" {print $2 " (deleted)"}' "$state/ledger" >"$state/programs"
  find /proc/[0-9]* -maxdepth 1 -name exe -printf '%l\n' 2>/dev/null | sort -u |
    grep -xF -f "$state/programs" | sed 's/ (deleted)$//'
  find /sys/fs/cgroup/kubepods* /sys/fs/cgroup/*/kubepods* -name cgroup.procs -exec cat {} + 2>/dev/null |
    sort -u | sed 's/^/process of a pod: /'
}

# What is said of the machine afterwards has been looked at just now.
look_again() {
  units=0 files=0 restored=0 directories=0 users=0
  while IFS=$tab read -r what which before <&3; do
    case $what in
      unit)
        units=$((units + 1))
        ! systemctl is-active --quiet "$which" || trouble "$which still runs"
        ;;
      file)
        if [ "$before" = kept ]; then
          restored=$((restored + 1))
          [ -L "$which" ] || cmp -s "$state/kept$which" "$which" || trouble "$which is not as it was"
        else
          files=$((files + 1))
          ! [ -e "$which" ] || trouble "$which is still there"
        fi
        ;;
      directory)
        case $which in /run/netns | /run/cni | /var/lib/cni) continue ;; esac
        directories=$((directories + 1))
        ! [ -e "$which" ] || is_mount "$which" || trouble "$which is still there"
        [ -z "$(mounts_in "$which")" ] || trouble "something is still mounted in $which"
        ;;
      user)
        users=$((users + 1))
        ! id -u "$which" >/dev/null 2>&1 || trouble "the user $which is still there"
        ;;
    esac
  done 3<"$state/ledger"
  survivors >"$state/survivors"
  while read -r program <&3; do trouble "it still runs: $program"; done 3<"$state/survivors"
  open=$(ss -Hltn | awk '{n = split($4, p, ":"); print p[n]}' | sort -u)
  for port in $ports; do
    ! printf '%s\n' "$open" | grep -qx "$port" || trouble "something still listens on port $port"
  done
  [ -n "$failed" ] || saw "$units units, $files files, $directories directories and $users users are gone," \
    "$restored files are as they were, no program of the cluster runs, its ports are closed:" "${ports:-none}"
}

# What of a cluster can be told from its names alone.
traces() {
  for unit in $(systemctl list-units --plain --no-legend --state=active | awk '{print $1}'); do
    case $unit in kubelet.service | kube-*.service | kdiy-*.service) printf '%s runs\n' "$unit" ;; esac
  done
  grep -ls 'Written by kdiy' /etc/systemd/system/*.service
  for path in /etc/kubernetes/pki /etc/etcd/pki /var/lib/etcd/data /var/lib/kubelet/pki /usr/local/bin/kubelet; do
    ! [ -e "$path" ] || printf '%s\n' "$path"
  done
  ! grep -qs '^# kdiy begin' /etc/hosts || printf 'lines in /etc/hosts\n'
}

# A step whose driver went away may still be at work.
for lock in /run/kdiy-*.lock; do
  [ ! -e "$lock" ] || flock -w 300 "$lock" true || { trouble "a step does not end: $lock"; exit 1; }
done

# What puts things back on this machine would put back what is taken away here.
systemctl stop kdiy-reconcile.service 2>/dev/null

if ! [ -s "$state/ledger" ]; then
  found=$(traces | tr '\n' ',' | sed 's/,$//; s/,/, /g')
  if [ -n "$found" ]; then
    trouble "$state/ledger is gone: what kdiy put here cannot be told from what was here before. Still there: $found"
    exit 1
  fi
  saw "it has no ledger, and no unit, program, key or data of a cluster was found"
else
  tac "$state/ledger" >"$state/backwards" || exit 1
  end_programs
  take_away
  if [ -e "$state/planned-packages" ]; then
    # An installation was cut off.
    while read -r package before; do
      ! is_installed "$package" || note_package "$package" "$before"
    done <"$state/planned-packages"
  fi
  systemctl daemon-reload
  remove_packages
  while IFS=$tab read -r what which before <&3; do
    [ "$what $before" != "file kept" ] || restore_again "$which"
  done 3<"$state/ledger"
  look_again
  for unit in $resume; do
    systemctl cat "$unit" >/dev/null 2>&1 || continue
    systemctl start "$unit" || trouble "could not start $unit, which ran before"
  done
fi
[ -z "$failed" ] || exit 1
# Steps that were cut off leave their stage.
rm -rf "$state" /run/kdiy.* /run/kdiy-*.lock
