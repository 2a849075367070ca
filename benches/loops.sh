#!/usr/bin/env bash
# The loops: every planner alone; and a real head with a fleet of simulated agents, in namespaces of their own, that
# is told of changes by hand and by git.
#
#   NODES=1000 WORKLOADS=200   how many there are
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${INSIDE:-}" ]; then
    exec env INSIDE=1 unshare --user --map-root-user --net --mount --pid --fork --mount-proc --kill-child "$0" "$@"
fi

ulimit -n "$(ulimit -Hn)"
loops=$PWD/target/x86_64-unknown-linux-musl/release/bramble-loops
ended=0
"$loops" planners "${NODES:-1000}" "${WORKLOADS:-200}" || ended=$?
"$loops" head "${NODES:-1000}" "${WORKLOADS:-200}" || ended=$?
exit "$ended"
