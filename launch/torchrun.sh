#!/bin/bash
# Train with torchrun on one machine or several, one process a GPU. Arguments are those of `lcm train`:
#
#     launch/torchrun.sh --config my.yaml                                      # all GPUs of this machine
#     NNODES=4 MASTER=10.0.0.1 launch/torchrun.sh --config my.yaml             # the same line on each of 4 machines
#
# Where a process dies, all are started again and go on from the last checkpoint, at most RESTARTS times. SIGTERM,
# SIGUSR1 or Ctrl-C to torchrun: the run finishes its step and saves; torchrun itself then ends with code 1.
# With several machines, all must see this folder under the same path.
#
#   NPROC       processes on this machine              (default: its GPUs; 1 without)
#   RESTARTS    how often to start again               (default: 3)
#   NNODES      machines                               (default: 1)
#   MASTER      address of one of them, for all        (with NNODES above 1)
#   PORT        port there, open between the machines  (default: 29400)
#   RUN_ID      tells runs apart that share MASTER and PORT
#   LOCAL_ADDR  this machine's address for the others  (default: the one from which it reaches MASTER)
#
# Where machines have several networks, name the one to use: GLOO_SOCKET_IFNAME=eth1 NCCL_SOCKET_IFNAME=eth1

set -euo pipefail
nnodes="${NNODES:-1}"
nproc="${NPROC:-$(nvidia-smi --list-gpus 2>/dev/null | wc -l || true)}"
if [ "$nproc" -lt 1 ]; then nproc=1; fi
if [ "$nnodes" -gt 1 ]; then
    # Names of machines often lead to a loopback address, so ask the network: who has MASTER's address is the host.
    read -r host address < <(python - "${MASTER:?set it to the address of one machine}" <<'PYTHON'
import socket, sys
master = socket.gethostbyname(sys.argv[1])
probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
probe.connect((master, 9))  # sends nothing
address = probe.getsockname()[0]
print(int(address == master or master.startswith("127.")), address)
PYTHON
    )
    meeting=(--rdzv-backend=c10d --rdzv-endpoint="$MASTER:${PORT:-29400}" --rdzv-id="${RUN_ID:-lexalcm}"
        --rdzv-conf="is_host=$host" --local-addr="${LOCAL_ADDR:-$address}")
else
    meeting=(--standalone)
fi
export PET_SIGNALS_TO_HANDLE="${PET_SIGNALS_TO_HANDLE:-SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1}"
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-600}"  # seconds that a save may take
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

exec python -m torch.distributed.run --nnodes="$nnodes" --nproc-per-node="$nproc" --max-restarts="${RESTARTS:-3}" \
    "${meeting[@]}" -m lexalcm train "$@"
