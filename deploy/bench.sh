#!/usr/bin/env bash
# A server on a free port, measured at 1, 8 and 32 callers: `echo` for the server's own cost, `nanodet` beside the
# bare model in a loop in the same run. Arguments go to `opsin bench`, as in -z 20s. The server is stopped at the
# end. Needs `opsin` on PATH.
set -euo pipefail

# As in the images; the reasons are in Dockerfile.cpu.
export MALLOC_ARENA_MAX=1 MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=1073741824 \
    MALLOC_TOP_PAD_=67108864 OMP_WAIT_POLICY=PASSIVE

coproc SERVER { exec opsin serve --host 127.0.0.1 --port 0 --model echo --model nanodet --drain-delay 0; }
server=$SERVER_PID
trap 'kill "$server" 2>/dev/null && wait "$server"' EXIT

read -r ready <&"${SERVER[0]}" || { echo "the server did not start" >&2; exit 1; }
echo "$ready"
[[ $ready =~ 127\.0\.0\.1:[0-9]+ ]]
target=${BASH_REMATCH[0]}

opsin bench --target "$target" --model echo --size 1kB -c 1,8,32 -z 5s "$@"
opsin bench --target "$target" --model nanodet -c 1,8,32 -z 10s --against bare "$@"
