# The machine's ledger: what kdiy puts there, in that order, from which `kdiy destroy` takes it
# away again. One tab-separated line a thing: what, which, and how it was before. A line is
# written before the thing is made, so that an interruption leaves a line too many, never one
# too few.
state=/var/lib/kdiy
tab=$(printf '\t')

# what which
entered() { grep -qsF "$1$tab$2$tab" "$state/ledger"; }

# what which before
enter() {
  entered "$1" "$2" || printf '%s\t%s\t%s\n' "$1" "$2" "$3" >>"$state/ledger"
}

# path what: a directory about to be made, with its parents
enter_directory() {
  [ -d "${1:-/}" ] && return
  enter_directory "${1%/*}" parent
  enter "$2" "$1" absent
}

# path: a file about to be written; one that is there already is kept for later
enter_file() {
  case $1 in "$state"/*) return ;; esac
  entered file "$1" && return
  if [ -e "$1" ] || [ -L "$1" ]; then
    (umask 077 && mkdir -p "$state/kept${1%/*}") && cp -a "$1" "$state/kept$1" || return 1
    enter file "$1" kept
  else
    enter_directory "${1%/*}" parent
    enter file "$1" absent
  fi
}
