#!/bin/sh
# Builds what a release offers for one target, into dist/: an archive, and for Linux a .deb and an .rpm.
# The same commit and compiler give the same bytes: the time is that of the commit, paths of this
# computer are replaced, and archives hold sorted files without owners.
set -eu
if [ $# -ne 1 ]; then
  echo "usage: $0 TARGET, such as x86_64-unknown-linux-musl" >&2
  exit 2
fi
target=$1
cd "$(dirname "$0")/.."

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml)
KDIY_COMMIT=${KDIY_COMMIT:-$(git rev-parse HEAD)}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export KDIY_COMMIT SOURCE_DATE_EPOCH
cargo_home=${CARGO_HOME:-$HOME/.cargo}
export RUSTFLAGS="${RUSTFLAGS-} --remap-path-prefix=$PWD=/kdiy --remap-path-prefix=$cargo_home=/cargo"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"

cargo build --release --locked --package kdiy --bin kdiy --target "$target"
program=$CARGO_TARGET_DIR/$target/release/kdiy
packaging/assets.sh "$program"

name=kdiy-$version-$target
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir -p dist "$stage/$name/man"
cp "$program" README.md CHANGELOG.md LICENSE NOTICE "$stage/$name/"
cp -R target/packaging/completions "$stage/$name/"
cp target/packaging/man/*.1.gz "$stage/$name/man/"
# macOS calls GNU's tar gtar; its own cannot sort.
tar=$(command -v gtar || command -v tar)
"$tar" --create --directory "$stage" --sort=name --format=ustar --mtime="@$SOURCE_DATE_EPOCH" \
  --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX "$name" | gzip -9n >"dist/$name.tar.gz"

case $target in
  *-linux-*)
    cargo deb --no-build --no-strip --target "$target" --output dist/
    cargo generate-rpm --target "$target" --target-dir "$CARGO_TARGET_DIR" --output dist/
    ;;
esac
