#!/bin/bash
# Train with DeepSpeed's launcher on the machines of a hostfile. Arguments are those of `lcm train`:
#
#     launch/deepspeed.sh --deepspeed configs/zero3.json --config my.yaml
#     HOSTFILE=my_hosts launch/deepspeed.sh --deepspeed configs/zero3.json --config my.yaml
#
# Run it on one machine: it reaches the others by ssh (without a password) through `pdsh`, which must be installed.
# All must have this folder and its Python under the same path. Variables that they need too go into a file
# .deepspeed_env here, one NAME=value a line (for example NCCL_SOCKET_IFNAME=eth1 and GLOO_SOCKET_IFNAME=eth1).
#
#   HOSTFILE     the machines and their processes   (default: hostfile beside this script)
#   MASTER_ADDR  the first machine's address, where its name does not lead the others to it
#   MASTER_PORT  a port there                       (default: 29500)

set -euo pipefail
hostfile="${HOSTFILE:-$(dirname "$0")/hostfile}"
where=()
if [ -n "${MASTER_ADDR:-}" ]; then where=(--master_addr="$MASTER_ADDR"); fi
if [ "$(grep -v '^ *#' "$hostfile" | awk 'NF {print $1}')" = localhost ]; then  # this machine alone, without ssh
    where=(--no_ssh --node_rank=0 --master_addr=127.0.0.1)
fi
if ! command -v nvidia-smi >/dev/null; then export DS_ACCELERATOR=cpu; fi

exec deepspeed --hostfile "$hostfile" "${where[@]}" \
    --master_port "${MASTER_PORT:-29500}" --module lexalcm train "$@"
