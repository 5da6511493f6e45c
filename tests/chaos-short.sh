#!/bin/sh
# Short runs of the chaos harness, one per workload that is named, with one result line in the form of cargo's.
# Usage: chaos-short.sh HARNESS WORKLOAD...
#
# The faults are those that show an effect on any machine, in 20 seconds, without root too. A run that proves nothing
# (exit code 3: the machine was too busy) is ignored, not failed; what was found is.
set -u
harness=$1
shift
if [ ! -x "$harness" ] || [ ! -x "${harness%-jepsen}" ]; then
    echo "$harness or ${harness%-jepsen} is missing: run \`make test\` first" >&2
    exit 2
fi

passed=0 failed=0 ignored=0
for workload in "$@"; do
    "$harness" run --workload "$workload" --nemesis kill-one,partition-one,pause --time 20 --clients 8 --rate 25 --seed 1
    case $? in
    0) passed=$((passed + 1)) ;;
    3) ignored=$((ignored + 1)) ;;
    *) failed=$((failed + 1)) ;;
    esac
done
outcome=ok
[ "$failed" -eq 0 ] || outcome=FAILED
echo "test result: $outcome. $passed passed; $failed failed; $ignored ignored"
[ "$failed" -eq 0 ]
