#!/bin/sh
# Runs without a known bug must raise no alarm: 20 seeds of two minutes, all faults, one workload after the other.
# chaos-clean.sh HARNESS [SEEDS [SECONDS]]; exit code 1 after an alarm, 3 where a run proves nothing.
set -u
harness=$1 seeds=${2:-20} seconds=${3:-120}
alarms=0 silent=0 seed=0
while [ "$seed" -lt "$seeds" ]; do
    for workload in register lock fifo shared multi election membership; do
        [ "$seed" -lt "$seeds" ] || break
        seed=$((seed + 1))
        "$harness" run --workload "$workload" --time "$seconds" --seed "$seed" 2>/dev/null
        case $? in
        0) ;;
        1) alarms=$((alarms + 1)) ;;
        3) silent=$((silent + 1)) ;;
        *) echo "seed $seed: the run could not be made" >&2 && exit 2 ;;
        esac
    done
done
echo "$seeds clean seeds: $alarms alarms, $silent that prove nothing"
[ "$alarms" -eq 0 ] || exit 1
[ "$silent" -eq 0 ] || exit 3
