#!/bin/sh
# Prints the formula of a release: its version, and the digests of its archives from a SHA256SUMS.
set -eu
if [ $# -ne 2 ]; then
  echo "usage: $0 VERSION SHA256SUMS" >&2
  exit 2
fi
version=$1
sums=$2
formula=$(sed "s/@VERSION@/$version/g" "$(dirname "$0")/kdiy.rb.in")
for target in aarch64-apple-darwin x86_64-apple-darwin aarch64-unknown-linux-musl \
  x86_64-unknown-linux-musl; do
  archive=kdiy-$version-$target.tar.gz
  digest=$(awk -v archive="$archive" '$2 == archive { print $1 }' "$sums")
  if [ -z "$digest" ]; then
    echo "$0: $sums has no digest of $archive" >&2
    exit 1
  fi
  formula=$(printf '%s\n' "$formula" | sed "s/@$target@/$digest/")
done
printf '%s\n' "$formula"
