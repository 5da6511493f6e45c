#!/bin/sh
# Installs the Debian packages that the tests use. Does nothing when they are there already; says what is
# missing where it cannot install (the tests that need it then skip with a message of their own).
set -eu

# program:package pairs.
#   mkfs.ext4   the power-loss test cuts the power of an ext4 file system on a loop device
#   ip, strace  the chaos harness: network namespaces, failing and slow fsync
#   cc          ring and SQLite are the only C that is ever built (not yet in use)
#   prometheus  scrapes nodes in the tests; the package brings promtool too
#   haproxy, nginx  stand in front of nodes in the tests, with the configurations of deploy/
#   ovsdb-server, ovn-northd  OVN's databases and what computes one from the other
#   ovs-vswitchd, ovn-controller  a hypervisor without a kernel module, so that ports go up
#   openssl  certificates of the tests
needed="mkfs.ext4:e2fsprogs ip:iproute2 strace:strace cc:gcc prometheus:prometheus haproxy:haproxy nginx:nginx \
    ovsdb-server:openvswitch-switch ovn-northd:ovn-central ovs-vswitchd:openvswitch-switch ovn-controller:ovn-host openssl:openssl"

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
# Only the programs are wanted: while this runs, no package may start a service of its own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap '$as_root rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
fi
# shellcheck disable=SC2086 # a list of words on purpose
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
