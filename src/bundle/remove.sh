# Takes away from this machine what its ledger names, the last thing first, and proves each gone.
# May be run again after any interruption. Every line that begins with "@kdiy " is for the driver.
set -u
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
state=/var/lib/kdiy
failed='' packages='' resume='' tab=$(printf '\t')

did() { printf '@kdiy did %s\n' "$*"; }
doing() { printf '@kdiy doing %s\n' "$*"; }
trouble() { printf '@kdiy fail %s\n' "$*"; failed=yes; }

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
    mkdir -p "$(dirname "$1")" && cp -a "$state/kept$1" "$1.kdiy-new" && mv -f "$1.kdiy-new" "$1" &&
      did "restored $1" || trouble "could not restore $1"
  else
    rm -f "$1" "$1.kdiy-new" && did "removed $1" || trouble "could not remove $1"
  fi
}

# path: with all that was put in it since
remove_directory() {
  [ -e "$1" ] || return
  unmount_in "$1"
  rm -rf --one-file-system "$1"
  if [ -e "$1" ]; then trouble "could not remove $1"; else did "removed $1"; fi
}

# path: it was there, and empty
empty_directory() {
  [ -d "$1" ] || return
  unmount_in "$1"
  find "$1" -xdev -mindepth 1 -delete && did "emptied $1" || trouble "could not empty $1"
}

# name
remove_user() {
  id -u "$1" >/dev/null 2>&1 || return
  userdel "$1" || { trouble "could not remove the user $1"; return; }
  ! getent group "$1" >/dev/null || groupdel "$1"
  did "removed user $1"
}

# Only what nothing else needs by now: dpkg and rpm refuse to break a dependency.
remove_packages() {
  [ -n "$packages" ] || return
  doing "removing packages"
  # shellcheck disable=SC2086
  if command -v dpkg >/dev/null; then dpkg --purge $packages; else rpm --erase $packages; fi
  for package in $packages; do
    if dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' ||
      rpm -q "$package" >/dev/null 2>&1; then
      did "left the package $package, which others need by now"
    else
      did "removed the package $package"
    fi
  done
}

# A step whose driver went away may still be at work.
for lock in /run/kdiy-*.lock; do
  [ ! -e "$lock" ] || flock -w 300 "$lock" true || { trouble "a step does not end: $lock"; exit 1; }
done

# What puts things back on this machine would put back what is taken away here.
systemctl stop kdiy-reconcile.service 2>/dev/null

if [ -s "$state/ledger" ]; then
  tac "$state/ledger" >"$state/backwards" || exit 1
  while IFS=$tab read -r what which before <&3; do
    case $what in
      unit) remove_unit "$which" "${before%% *}" "${before##* }" ;;
      undo) /bin/sh -eu "$state/undo/$which" && did "undid $which" || trouble "could not undo $which" ;;
      file) remove_file "$which" "$before" ;;
      directory) remove_directory "$which" ;;
      contents) empty_directory "$which" ;;
      parent) ! [ -d "$which" ] || rmdir --ignore-fail-on-non-empty "$which" ;;
      settled) chown "${before#* }" "$which" && chmod "${before%% *}" "$which" || trouble "could not settle $which" ;;
      user) remove_user "$which" ;;
      package) packages="$packages $which" ;;
      *) trouble "the ledger has a line that this kdiy does not know: $what $which" ;;
    esac
  done 3<"$state/backwards"
  systemctl daemon-reload
  remove_packages
  for unit in $resume; do
    systemctl cat "$unit" >/dev/null 2>&1 || continue
    systemctl start "$unit" || trouble "could not start $unit, which ran before"
  done
fi
[ -z "$failed" ] || exit 1
# Steps that were cut off leave their stage.
rm -rf "$state" /run/kdiy.* /run/kdiy-*.lock
