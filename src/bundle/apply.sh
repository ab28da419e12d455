# Applies one step of kdiy on one machine. $1 is the directory with the step's files.
# Every line that begins with "@kdiy " is for the driver; everything else is for the log.
# $state is set in ledger.sh, which stands before this.
# shellcheck disable=SC2154
set -u
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
stage=$1
dirty=''
mkdir -p "$state/steps" "$state/pending" "$state/restarting" "$state/started" \
  "$state/artifacts" "$state/staged" "$state/undo"

did() { printf '@kdiy did %s\n' "$*"; }
doing() { printf '@kdiy doing %s\n' "$*"; }
fail() { printf '@kdiy fail %s\n' "$*"; exit 1; }

# step: waits for an earlier run whose driver is gone, but which is still at work here
alone() {
  # Made by the driver when nothing that waits is waited for any more.
  enough="/run/kdiy-$1.enough"
  exec 9>"/run/kdiy-$1.lock" || fail "could not open /run/kdiy-$1.lock"
  flock -n 9 && { rm -f "$enough"; return; }
  doing "waiting for an earlier run of this step to end"
  flock -w $((300 * ${KDIY_SLOW:-1})) 9 || fail "an earlier run of this step does not end: look for apply.sh in ps"
  rm -f "$enough"
}

# unit: what it last had to say
journal_of() { journalctl --unit "$1" --lines 15 --no-pager --output cat >&2 2>/dev/null; }

# provides apt-name dnf-name
need_package() {
  command -v "$1" >/dev/null 2>&1 && return
  [ -e "$1" ] && return
  if command -v apt-get >/dev/null 2>&1; then
    missing_apt="${missing_apt-} $2"
  elif command -v dnf >/dev/null 2>&1; then
    missing_dnf="${missing_dnf-} $3"
  else
    fail "this machine has neither apt-get nor dnf to install $2"
  fi
}

# What an installation is going to bring is noted in this file before it begins. Afterwards, or when
# the next run finds the file because this one was cut off, what is there of it enters the ledger.
# What the owner installs between two runs never does.
planned="$state/planned-packages"

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

# enters what is there of an installation that ended, however it did
settle_packages() {
  [ -e "$planned" ] || return 0
  while read -r package before; do
    ! is_installed "$package" || enter package "$package" "$before"
  done <"$planned"
  rm -f "$planned"
}

# arguments of apt-get: waits while another program holds the lock of packages, and says which
packages_by_apt() {
  latest=$(($(date +%s) + 300 * ${KDIY_SLOW:-1})) holder=''
  while ! apt-get "$@" 2>"$stage/apt"; do
    cat "$stage/apt" >&2
    grep -qE 'Could not get lock|Unable to (lock|acquire)' "$stage/apt" || return 1
    held=$(sed -n 's/.*held by \(process .*\)$/\1/p' "$stage/apt" | head -n 1)
    held=${held:-another program}
    [ "$(date +%s)" -lt "$latest" ] ||
      fail "the lock of packages is held by $held for minutes: wait until it ends, or stop it"
    [ "$held" = "$holder" ] || doing "waiting for $held, which holds the lock of packages"
    holder=$held
    sleep 3
  done
  cat "$stage/apt" >&2
}

# shellcheck disable=SC2086
apt_install() {
  # A file of the owner's that a package has as well stays the owner's.
  set -- -y --no-install-recommends -o Dpkg::Options::=--force-confold $missing_apt
  plan=$(apt-get install --simulate "$@") || return
  # "Inst name [old] (new)": what has an old version was there before.
  for package in $(printf '%s\n' "$plan" | awk '$1 == "Inst" && $3 !~ /^\[/ {print $2}'); do
    # A package that was removed may have left its owner's settings.
    before=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)
    [ "$before" = config-files ] || before=absent
    printf '%s %s\n' "$package" "$before"
  done >"$planned" || return
  packages_by_apt install "$@"
}

# shellcheck disable=SC2086
dnf_install() {
  # dnf has no plan that a program could read, but it can stop once everything is downloaded.
  rm -rf "$state/rpms" && mkdir "$state/rpms" || return
  dnf install -y --downloadonly --destdir "$state/rpms" $missing_dnf || return
  for file in "$state/rpms"/*.rpm; do
    [ -e "$file" ] || continue
    package=$(rpm -qp --nosignature --qf '%{NAME}' "$file") || return
    is_installed "$package" || printf '%s absent\n' "$package"
  done >"$planned" || return
  rm -rf "$state/rpms"
  # By name once more, so that signatures are checked with the repositories' keys.
  dnf install -y $missing_dnf
}

# manager: installs with it
install_with() {
  "$1_install"
  status=$?
  settle_packages
  return $status
}

install_packages() {
  # One step at a time.
  exec 8>/run/kdiy-packages.lock
  flock 8
  settle_packages
  if [ -n "${missing_apt-}" ]; then
    doing "installing$missing_apt"
    install_with apt || { packages_by_apt update && install_with apt; } ||
      fail "apt-get could not install$missing_apt"
    did "installed$missing_apt"
  fi
  if [ -n "${missing_dnf-}" ]; then
    doing "installing$missing_dnf"
    install_with dnf || fail "dnf could not install$missing_dnf"
    did "installed$missing_dnf"
  fi
  exec 8>&-
}

# name home
user() {
  id -u "$1" >/dev/null 2>&1 && return
  enter user "$1" absent
  useradd --system --user-group --home-dir "$2" --no-create-home --shell /usr/sbin/nologin "$1" ||
    fail "could not create the user $1"
  did "created user $1"
}

# path mode owner
directory() {
  if [ ! -d "$1" ]; then
    enter_directory "$1" directory
    mkdir -p "$1" || fail "could not create $1"
    did "created $1"
  fi
  settle "$@"
}

# path mode owner: gives a path its mode and owner where they differ
settle() {
  # stat prints the mode without leading zeros
  if [ "$(stat -c '%a %U:%G' "$1")" != "$(printf '%o' "0$2") $3" ]; then
    entered file "$1" || entered directory "$1" || entered parent "$1" || enter settled "$1" "$(stat -c '%a %U:%G' "$1")"
    chown "$3" "$1" && chmod "$2" "$1" || fail "could not set mode and owner of $1"
    did "set mode and owner of $1"
  fi
}

# units...: notes that they have to restart, so that not even a loss of power forgets it. Always
# before what they use changes: whoever is interrupted between the two restarts once too often,
# never once too few.
mark() {
  new_marks=''
  for unit in "$@"; do
    [ -e "$state/pending/$unit" ] && continue
    : >"$state/pending/$unit" || fail "could not write $state/pending/$unit"
    new_marks=yes
  done
  [ -z "$new_marks" ] || sync "$state/pending"
}

# number mode owner path units...
file() {
  source="$stage/files/$1" mode=$2 owner=$3 path=$4
  shift 4
  if cmp -s "$source" "$path"; then
    settle "$path" "$mode" "$owner"
    return
  fi
  enter_file "$path" || fail "could not back up $path"
  mkdir -p "${path%/*}" || fail "could not create the directory of $path"
  mark "$@"
  new="$path.kdiy-new"
  rm -f "$new"
  (umask 077 && cp "$source" "$new") && chown "$owner" "$new" && chmod "$mode" "$new" &&
    sync "$new" && mv -f "$new" "$path" || fail "could not write $path"
  did "wrote $path"
  case $path in /etc/systemd/system/*) dirty=yes ;; esac
}

# step names...: what kdiy-reconcile keeps true of this step, and nothing that it once kept
reconciles() {
  for kept in "$state/reconcile/$1"-*; do
    [ -e "$kept" ] || continue
    number=${kept#"$state/reconcile/$1-"}
    # Of another step, whose name begins like this one's.
    case $number in *[!0-9]*) continue ;; esac
    case " $* " in *" $1-$number "*) ;; *) rm -f "$kept" ;; esac
  done
}

# key path units...: puts what was sent for the path in its place. It waited beside it, so that until
# now a unit that started by itself, at a boot say, started what it had been before.
place() {
  sent="$state/staged/$1" key=$1 path=$2
  shift 2
  [ -e "$sent" ] || return 0
  if [ -e "$path.kdiy-staged" ]; then
    mark "$@"
    mv -f "$path.kdiy-staged" "$path" || fail "could not install $path"
    did "installed $path"
  fi
  # Without the staged file, a run was cut off right here.
  mv -f "$sent" "$state/artifacts/$key" || fail "could not write $state/artifacts/$key"
}

reload_units() {
  [ -z "$dirty" ] || systemctl daemon-reload || fail "systemctl daemon-reload"
}

# name script: takes away what the step's programs leave outside of files; run by destroy once
# its units are stopped
undo() {
  printf '%s\n' "$2" >"$state/undo/$1" || fail "could not write $state/undo/$1"
  enter undo "$1" -
}

# path: a file that the step's programs make, or a directory that they make or fill. What a
# directory held before is listed, so that the rest can go.
leaves() {
  if [ ! -e "$1" ]; then
    enter_directory "$1" directory
  elif [ -d "$1" ] && ! entered directory "$1" && ! entered contents "$1"; then
    list="$state/held/$(printf '%s' "$1" | tr / _)"
    mkdir -p "$state/held" && ls -A "$1" >"$list" || fail "could not list $1"
    enter contents "$1" "$list"
  fi
}

# path: a directory in which others may make things as well; it goes once it is empty
shares() { enter_directory "$1" parent; }

# start|restart|reload unit: one that ends by itself, say because what it needs was not there in time,
# may get further the next time; one that cannot run at all says so at once, each time
tell() {
  left=5
  until systemctl "$1" "$2"; do
    left=$((left - 1))
    if [ "$left" = 0 ] || [ "$(systemctl show --property Result --value "$2")" != exit-code ]; then
      journal_of "$2"
      fail "$2 did not $1"
    fi
    doing "$1ing $2 again, since it ended"
  done
  did "$1ed $2"
}

# paths...: the digest of each, as a program that starts now finds it
using() {
  files=''
  for path in "$@"; do
    # Programs are large, and were checked when they came.
    if grep -hs "^$path " "$state"/artifacts/* >"$stage/artifact"; then
      read -r path digest _ <"$stage/artifact"
      printf '%s  %s\n' "$digest" "$path"
    else
      files="$files $path"
    fi
  done
  # shellcheck disable=SC2086
  [ -z "$files" ] || sha256sum -- $files 2>/dev/null
}

# unit restart|reload paths...: has it run with the paths that it uses as they are now
unit() {
  name=$1 verb=$2
  shift 2
  entered unit "$name" ||
    enter unit "$name" "$(systemctl is-enabled "$name" 2>/dev/null) $(systemctl is-active "$name")"
  if [ "$(systemctl is-enabled "$name" 2>/dev/null)" != enabled ]; then
    # Offline, it only makes the links: else each has systemd read all units once more.
    SYSTEMD_OFFLINE=1 systemctl enable --quiet "$name" || fail "could not enable $name"
    did "enabled $name"
  fi
  # Other steps work here at the same time. A mark that is made from now on is for another restart.
  [ ! -e "$state/pending/$name" ] || mv -f "$state/pending/$name" "$state/restarting/$name"
  using "$@" >"$stage/using"
  if ! systemctl is-active --quiet "$name"; then
    doing "starting $name"
    systemctl reset-failed "$name" 2>/dev/null
    tell start "$name"
  elif [ -e "$state/restarting/$name" ]; then
    doing "${verb}ing $name"
    tell "$verb" "$name"
  fi
  started "$name"
  rm -f "$state/restarting/$name"
}

# unit: notes what its process was started with. systemd gives every start another invocation.
started() {
  { systemctl show --property InvocationID --value "$1" && cat "$stage/using"; } \
    >"$state/started/$1.new" && mv -f "$state/started/$1.new" "$state/started/$1" ||
    fail "could not write $state/started/$1"
}

# units...: how often systemd has started them again, in all
restarts_of() {
  [ $# -gt 0 ] || { echo 0; return; }
  systemctl show --property NRestarts "$@" | awk -F= '/^NRestarts=/ {sum += $2} END {print sum + 0}'
}

# Units of kdiy's that end again and again, each with how often: what fails beside one of them most
# often only needs it.
crashing() {
  awk -F'\t' '$1 == "unit" {print $2}' "$state/ledger" 2>/dev/null | while read -r one; do
    restarted=$(restarts_of "$one")
    [ "$restarted" -lt 3 ] || printf '%s %s\n' "$one" "$restarted"
  done
}

# units...: gives up on what was waited for
give_up() {
  crashed=$(crashing)
  for unit in ${crashed:+"${crashed%% *}"} "$@"; do journal_of "$unit"; done
  cat "$stage/probe" >&2
  why=$(printf '%s\n' "$crashed" | awk 'NF {printf "; %s has ended and been started again %s times", $1, $2}')
  fail "gave up waiting for $what$why"
}

# Whether what is waited for answers. One healthy answer between two crashes is none: where a unit
# was started again meanwhile, it has to stay up for a while.
answers() {
  /bin/sh -c "$probe" >"$stage/probe" 2>&1 || return
  restarts=$(restarts_of "$@")
  [ "$restarts" -gt "$restarted_before" ] || return 0
  sleep 3
  if [ "$(restarts_of "$@")" = "$restarts" ] && /bin/sh -c "$probe" >"$stage/probe" 2>&1; then
    return 0
  fi
  echo "it answered, but a unit stopped" >>"$stage/probe"
  return 1
}

# Nanoseconds that a little work takes: four million on ordinary hardware, with room for less.
little_work() {
  began_at=$(date +%s%N) count=0
  while [ "$count" -lt 500 ]; do count=$((count + 1)); done
  echo $(($(date +%s%N) - began_at))
}

# seconds what script units...: longer where the machine turns out to be slow today, six times as
# long at most
ready() {
  began=$(date +%s) limit=$1 what=$2 probe=$3 tenths=2
  usual=$(($1 / ${KDIY_SLOW:-1})) worked=0 looks=0
  # Seldom on slow machines, which are given minutes.
  most=$(($1 / 40 > 5 ? $1 / 40 : 5))
  shift 3
  restarted_before=$(restarts_of "$@")
  doing "waiting for $what"
  until answers "$@"; do
    for unit in "$@"; do
      if systemctl is-failed --quiet "$unit"; then
        journal_of "$unit"
        fail "$unit failed"
      fi
    done
    [ ! -e "$enough" ] || fail "stopped waiting for $what, because another check failed"
    worked=$((worked + $(little_work))) looks=$((looks + 1))
    if [ $(($(date +%s) - began)) -ge "$limit" ]; then
      slow=$((worked / looks / 4000000))
      [ "$slow" -le 6 ] || slow=6
      [ $((usual * slow)) -gt "$limit" ] || give_up "$@"
      limit=$((usual * slow))
      doing "this machine takes $slow times as long as usual today: waiting up to $limit s for $what"
    fi
    # What takes long is asked less often: asking costs what is waited for the processor, too.
    sleep "$((tenths / 10)).$((tenths % 10))"
    [ "$tenths" -ge "$most" ] || tenths=$((tenths + 1))
  done
}

# name digest
finished() { printf '%s' "$2" >"$state/steps/$1"; }
