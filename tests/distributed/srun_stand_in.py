"""Does what `srun` does on one machine: starts SLURM_NTASKS tasks, tells each its place, passes signals on to them.

As in Slurm, the exit code is the highest of all tasks, or 128 and the signal that ended one; with --kill-on-bad-exit=1
a task that fails ends the others.
"""

import itertools
import os
import signal
import subprocess
import sys
import time

options = list(itertools.takewhile(lambda argument: argument.startswith("--"), sys.argv[1:]))
command = sys.argv[1 + len(options) :]
count = os.environ["SLURM_NTASKS"]
step = {"SLURM_STEP_NUM_TASKS": count, "SLURM_STEP_TASKS_PER_NODE": count, "SLURM_STEP_NODELIST": "localhost"}
tasks = [
    subprocess.Popen(command, env=os.environ | step | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)})
    for rank in range(int(count))
]
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda number, _: [task.send_signal(number) for task in tasks])
while any(task.poll() is None for task in tasks):
    if any(task.poll() for task in tasks) and "--kill-on-bad-exit=1" in options:
        for task in tasks:
            task.terminate()
    time.sleep(0.05)
sys.exit(max(code if code >= 0 else 128 - code for code in (task.wait() for task in tasks)))
