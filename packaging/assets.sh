#!/bin/sh
# Has the program write its man pages and completions into target/packaging, where the metadata of the
# .deb and of the .rpm in Cargo.toml expects them.
set -eu
if [ $# -ne 1 ]; then
  echo "usage: $0 KDIY" >&2
  exit 2
fi
program=$(realpath "$1")
cd "$(dirname "$0")/.."

rm -rf target/packaging
mkdir -p target/packaging/man target/packaging/completions
"$program" man target/packaging/man >/dev/null
# -n: neither the name nor the time of the file enters the archive.
gzip -9n target/packaging/man/*.1
"$program" completions bash >target/packaging/completions/kdiy.bash
"$program" completions zsh >target/packaging/completions/_kdiy
"$program" completions fish >target/packaging/completions/kdiy.fish
