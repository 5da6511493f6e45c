#!/bin/sh
# Installs the Debian packages that the tests use. Does nothing when they are there already; says what is
# missing where it cannot install (the tests that need it then skip with a message of their own).
set -eu

# program:package pairs.
#   mkfs.ext4   the power-loss test cuts the power of an ext4 file system on a loop device
#   cc          ring and SQLite are the only C that is ever built (not yet in use)
needed="mkfs.ext4:e2fsprogs cc:gcc"

missing=""
for pair in $needed; do
    program=${pair%%:*}
    PATH="$PATH:/sbin:/usr/sbin" command -v "$program" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "setup: please install:$missing (this is no Debian-like system; tests that need them will skip)" >&2
    exit 0
fi
as_root=""
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "setup: not root and no sudo; please install:$missing" >&2
        exit 0
    fi
    as_root=sudo
fi
echo "setup: installing$missing"
$as_root apt-get update -qq
# shellcheck disable=SC2086 # a list of words on purpose
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
