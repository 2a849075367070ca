#!/usr/bin/env bash
# The head with a fleet: simulated agents over real mutual TLS on one machine, in namespaces of their own; and the
# real agent.
#
#   AGENTS=1000 LENGTH=60   how many agents, and seconds of each steady part
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${INSIDE:-}" ]; then
    exec env INSIDE=1 unshare --user --map-root-user --net --mount --pid --fork --mount-proc --kill-child "$0" "$@"
fi

ulimit -n "$(ulimit -Hn)"
fleet=$PWD/target/x86_64-unknown-linux-musl/release/bramble-fleet
ended=0
"$fleet" many "${AGENTS:-1000}" "${LENGTH:-60}" || ended=$?
"$fleet" idle 10 "${LENGTH:-60}" || ended=$?
"$fleet" agent "${LENGTH:-60}" || ended=$?
exit "$ended"
