"""The command under every launcher, and the files of `launch/`, as they would be used."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from forked_runs import ForkServer, free_port, wait_until
from training_workspace import ROOT, curve, largest_difference, zero

LAUNCH = ROOT / "launch"
SETTINGS = ["train.steps=40", "train.checkpoint.every=5", "train.validate_every=20"]
SAME = 1e-3  # relative, between one process and two: rounding, which has grown over 40 steps to 2e-4
Start = Callable[..., "subprocess.Popen[str]"]


def train_arguments(name: str, settings: Sequence[str] = SETTINGS) -> list[str]:
    return ["--config", "config.yaml", "--name", name, *(word for setting in settings for word in ("--set", setting))]


@pytest.fixture
def start(workspace: Path) -> Iterator[Start]:
    """Starts a command in the workspace, with our Python first on the path; ends it with all its processes."""
    started: list[subprocess.Popen[str]] = []

    def run(command: Sequence[str | Path], path: str = "", **environment: str) -> "subprocess.Popen[str]":
        always = {"OMP_NUM_THREADS": "1", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "15"}  # torchrun kills its processes then
        search = os.pathsep.join([*filter(None, [path]), str(Path(sys.executable).parent), os.environ["PATH"]])
        started.append(
            subprocess.Popen(
                [str(word) for word in command],
                cwd=workspace,
                env=os.environ | always | {"PATH": search} | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.fixture(scope="session")
def alone(forks: ForkServer) -> Path:
    """The run that the launchers are to repeat, in one process."""
    run = forks.train("alone", SETTINGS)
    assert run.wait() == [0], run.output
    return run.folder


def ends(process: "subprocess.Popen[str]", code: int = 0) -> tuple[str, str]:
    """Wait for the end, which must be with this code; gives what it wrote."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, out + err
    return out, err


def reaches(process: "subprocess.Popen[str]", run: Path, step: int) -> bool:
    """Wait for a step; whether the process still runs then."""
    wait_until(lambda: ((run / "metrics.jsonl").exists() and len(curve(run)) >= step) or process.poll() is not None)
    return process.poll() is None


def trainers(name: str) -> list[int]:
    """The ids of the processes that train a run, by rank."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
            if "lexalcm" in words and name in words:
                places = dict(
                    line.split("=", 1) for line in (folder / "environ").read_bytes().decode().split("\0") if "=" in line
                )
                if "RANK" in places:
                    found[int(places["RANK"])] = int(folder.name)
        except (OSError, UnicodeDecodeError):
            continue
    return [found[rank] for rank in sorted(found)]


def test_torchrun_with_two_processes_and_no_compiler(workspace: Path, tmp_path: Path) -> None:
    """One process speaks, and says only our own words."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PATH": str(tmp_path),  # no g++, no ninja, nothing
        "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions"),  # where compiled operators would be found, or put
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "127.0.0.1:0", "-m", "lexalcm", "train", "--config", "config.yaml"]
    command += ["--name", "torchrun", "--set", zero(2)]
    done = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"train loss [\d.]+, validation loss [\d.]+\n", done.stdout)
    lines = done.stderr.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("step")] == [f"{step}/6" for step in range(1, 7)]
    assert len(lines) == 6 + 3  # the steps, then what was done, what was written, what is next
    assert len(curve(workspace / "runs/torchrun")) == 6
    assert not (tmp_path / "extensions").exists()


def test_nproc_stops_when_asked_to_and_starts_again_what_was_killed(workspace: Path, alone: Path, start: Start) -> None:
    run = workspace / "runs/nproc"
    command = [sys.executable, "-m", "lexalcm", "train", "--nproc", "2", "--max-restarts=1", *train_arguments("nproc")]
    first = start(command)
    assert reaches(first, run, 3), ends(first)
    first.send_signal(signal.SIGTERM)
    _, err = ends(first)
    stopped = curve(run)[-1][0]
    assert f"stopped at step {stopped}, saved" in err
    assert stopped < 40
    second = start(command)
    assert reaches(second, run, stopped + 6), ends(second)
    os.kill(trainers("nproc")[1], signal.SIGKILL)
    out, err = ends(second)
    assert "lcm: process 1 was ended by SIGKILL: out of memory?" in err
    assert "lcm: starting all 2 processes again (1 of 1 restarts)" in err
    assert "Traceback" not in err
    assert out.count("train loss") == 1
    assert largest_difference(alone, run) < SAME


def test_torchrun_sh_starts_again_what_was_killed(workspace: Path, alone: Path, start: Start) -> None:
    run = workspace / "runs/restarted"
    process = start([LAUNCH / "torchrun.sh", *train_arguments("restarted")], NPROC="2", RESTARTS="1")
    assert reaches(process, run, 8), ends(process)
    os.kill(trainers("restarted")[0], signal.SIGKILL)
    ends(process)
    assert largest_difference(alone, run) < SAME


def test_torchrun_sh_saves_when_asked_to_stop(workspace: Path, start: Start) -> None:
    run = workspace / "runs/asked"
    process = start([LAUNCH / "torchrun.sh", *train_arguments("asked")], NPROC="2")
    assert reaches(process, run, 3), ends(process)
    process.send_signal(signal.SIGUSR1)
    _, err = ends(process, code=1)  # torchrun's way
    step = curve(run)[-1][0]
    assert f"stopped at step {step}, saved" in err
    assert (run / "latest").read_text().strip() == f"step_{step:08d}"


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a batch script with two tasks, and stand-ins for Slurm's commands."""
    stand_in = tmp_path / "srun"
    stand_in.write_text(f'#!/bin/bash\nexec {sys.executable} {Path(__file__).with_name("srun_stand_in.py")} "$@"\n')
    (tmp_path / "scontrol").write_text(f'#!/bin/bash\necho "$@" >> {tmp_path}/scontrol.log\n')
    for command in (stand_in, tmp_path / "scontrol"):
        command.chmod(0o755)
    job = str(free_port())  # the meeting point's port follows from it
    return {"path": str(tmp_path), "SLURM_JOB_ID": job, "SLURM_NTASKS": "2", "SLURM_CPUS_PER_TASK": "1"}


def test_slurm_saves_before_the_time_limit_and_goes_on_when_requeued(
    workspace: Path, alone: Path, start: Start, slurm: dict[str, str]
) -> None:
    run, command = workspace / "runs/slurm", ["bash", LAUNCH / "slurm.sbatch", *train_arguments("slurm")]
    log = Path(slurm["path"]) / "scontrol.log"
    first = start(command, **slurm)
    assert reaches(first, run, 3), ends(first)
    first.send_signal(signal.SIGUSR1)  # --signal=B:USR1: to the script alone
    _, err = ends(first)
    assert f"stopped at step {curve(run)[-1][0]}, saved" in err
    assert log.read_text() == f"requeue {slurm['SLURM_JOB_ID']}\n"
    ends(start(command, **slurm))
    assert log.read_text().count("requeue") == 1
    assert largest_difference(alone, run) < SAME


@pytest.mark.parametrize(("signals", "requeued"), [(["USR1"], True), (["TERM"], False), (["USR1", "TERM"], False)])
def test_slurm_requeues_what_the_time_limit_ended_before_it_could_hear(
    start: Start, slurm: dict[str, str], tmp_path: Path, signals: list[str], requeued: bool
) -> None:
    """But not what `scancel` ended."""
    deaf = "trap '' USR1\n" if len(signals) > 1 else ""
    (tmp_path / "srun").write_text(f"#!/bin/bash\n{deaf}touch {tmp_path}/ready\nexec sleep 100\n")
    script = start(["bash", LAUNCH / "slurm.sbatch", "--steps", "1"], **slurm)
    assert wait_until(lambda: (tmp_path / "ready").exists())
    time.sleep(0.2)  # the script has set its traps
    for name in signals:
        script.send_signal(signal.Signals[f"SIG{name}"])
        time.sleep(0.2)
    ends(script, code=128 + signal.Signals[f"SIG{signals[-1]}"])
    assert (tmp_path / "scontrol.log").exists() == requeued


@pytest.mark.parametrize(
    ("codes", "starts", "end"),
    [([1, 137, 0], 3, 0), ([1, 1, 1], 3, 1), ([2, 0], 1, 2)],
    ids=["dies", "hopeless", "wrong"],
)
def test_slurm_starts_again_what_has_failed(
    start: Start, slurm: dict[str, str], tmp_path: Path, codes: list[int], starts: int, end: int
) -> None:
    begun = tmp_path / "begun"
    tell = f"codes=({' '.join(map(str, codes))})\necho >> {begun}\nexit ${{codes[$(wc -l < {begun}) - 1]}}\n"
    (tmp_path / "srun").write_text(f"#!/bin/bash\n{tell}")
    out, _ = ends(start(["bash", LAUNCH / "slurm.sbatch"], RESTARTS="2", **slurm), code=end)
    assert len(begun.read_text()) == starts
    assert out.count("starting again") == starts - 1
    assert not (tmp_path / "scontrol.log").exists()


def test_slurm_does_not_requeue_a_mistake(start: Start, slurm: dict[str, str]) -> None:
    script = start(["bash", LAUNCH / "slurm.sbatch", "--config", "none.yaml"], RESTARTS="0", **slurm)
    _, err = script.communicate(timeout=300)
    assert script.returncode in (2, 128 + signal.SIGTERM)  # of the one that says it, or of one that did not hear yet
    assert err == "lcm: no such config file: none.yaml\n"
    assert not (Path(slurm["path"]) / "scontrol.log").exists()


@pytest.mark.parametrize("file", sorted(LAUNCH.glob("*.s*")), ids=lambda file: file.name)
def test_scripts_are_well_formed(file: Path) -> None:
    subprocess.run(["bash", "-n", str(file)], check=True)
    text = file.read_text()
    assert text.startswith("#!/bin/bash\n")
    orders = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    assert bool(orders) == (file.suffix == ".sbatch")
    for order in orders:  # a stray word would end sbatch's reading of options
        assert re.fullmatch(r"#SBATCH --[a-z-]+(=[^\s#]+)?(\s+#.*)?", order)
    assert orders == re.findall(
        r"(?m)^#SBATCH.*", text[: text.index("\nset -")]
    )  # sbatch reads up to the first command


@pytest.mark.parametrize("hosts", ["localhost slots=2", "node1 slots=1\nnode2 slots=1"], ids=["here", "two-hosts"])
def test_deepspeed_sh_on_the_machines_of_a_hostfile(
    workspace: Path, alone: Path, start: Start, tmp_path: Path, hosts: str
) -> None:
    """The machines of the second one are reached by stand-ins for ssh and pdsh that run everything here."""
    pytest.importorskip("deepspeed")
    ssh, pdsh = tmp_path / "ssh", tmp_path / "pdsh"
    ssh.write_text("#!/bin/bash\necho 127.0.0.1\n")
    pdsh.write_text(
        "#!/bin/bash\n"
        '[ "$1 $2 $4 $5" = "-S -f -w node1,node2" ] || exit 9\n'
        'command="${*:6}"\n'
        'bash -c "${command//%n/0}" & bash -c "${command//%n/1}" & wait -n && wait -n\n'
    )
    for stand_in in (ssh, pdsh):
        stand_in.chmod(0o755)
    (tmp_path / "hosts").write_text(f"# our machines\n{hosts}\n")
    name = f"deepspeed{len(hosts)}"
    command = [LAUNCH / "deepspeed.sh", "--deepspeed", ROOT / "configs/zero1.json", *train_arguments(name)]
    where = {"HOSTFILE": str(tmp_path / "hosts"), "MASTER_PORT": str(free_port()), "DS_ACCELERATOR": "cpu"}
    ends(start(command, path=str(tmp_path), **where))
    assert largest_difference(alone, workspace / "runs" / name) < SAME


def test_the_kubernetes_job_says_what_trainjobs_must_and_its_command_trains_in_two_pods(
    workspace: Path, alone: Path, start: Start
) -> None:
    volume, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    assert (volume["apiVersion"], volume["kind"]) == ("v1", "PersistentVolumeClaim")
    assert (job["apiVersion"], job["kind"]) == ("trainer.kubeflow.org/v1alpha1", "TrainJob")
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", job["metadata"]["name"])
    spec = job["spec"]
    assert spec["runtimeRef"]["name"] == "torch-distributed"
    trainer = spec["trainer"]
    assert type(trainer["numNodes"]) is type(trainer["numProcPerNode"]) is int
    assert trainer["numProcPerNode"] == trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"]
    assert all(type(variable["value"]) is str for variable in trainer["env"])
    (patch,) = spec["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = node["template"]["spec"]["template"]["spec"]
    mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
    assert mounted == {one["name"] for one in pod["volumes"]}
    assert volume["metadata"]["name"] in str(pod["volumes"])

    (script,) = trainer["args"]
    words = script.replace("\\\n", " ")
    before, _ = words.split("--data")
    assert "cd /workspace\n" in before
    arguments = " ".join(train_arguments("pods"))
    command = [*trainer["command"], before.replace("cd /workspace\n", f"cd {workspace}\n") + arguments]
    where = {"PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(free_port())}
    size = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "1"}
    pods = [start(command, **where, **size, PET_NODE_RANK=str(rank)) for rank in range(2)]
    for pod in pods:
        ends(pod)
    assert largest_difference(alone, workspace / "runs/pods") < SAME


@pytest.fixture
def machines() -> Iterator[tuple[str, str]]:
    """Two network namespaces with an address each and a cable between them."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("two networks on one machine need root and the command `ip` (package iproute2)")
    mark = uuid.uuid4().hex[:6]
    names = f"lcm{mark}a", f"lcm{mark}b"

    def ip(*words: str, check: bool = True) -> Any:
        return subprocess.run(["ip", *words], check=check, capture_output=True, text=True)

    if ip("netns", "add", names[0], check=False).returncode:
        pytest.skip("this machine allows no network namespaces")
    ip("netns", "add", names[1])
    ip("link", "add", names[0], "type", "veth", "peer", "name", names[1])
    for number, name in enumerate(names, start=1):
        ip("link", "set", name, "netns", name)
        ip("-n", name, "addr", "add", f"10.231.7.{number}/24", "dev", name)
        ip("-n", name, "link", "set", name, "up")
        ip("-n", name, "link", "set", "lo", "up")
    yield names
    for name in names:
        ip("netns", "del", name)


def test_torchrun_sh_on_two_machines_with_networks_of_their_own(
    workspace: Path, alone: Path, start: Start, machines: tuple[str, str]
) -> None:
    runs = []
    for name in machines:
        command = ["ip", "netns", "exec", name, LAUNCH / "torchrun.sh", *train_arguments("machines")]
        meeting = {"NNODES": "2", "NPROC": "1", "MASTER": "10.231.7.1", "GLOO_SOCKET_IFNAME": name}
        runs.append(start(command, **meeting))
    outputs = [ends(process) for process in runs]
    assert sorted(out.count("train loss") for out, _ in outputs) == [0, 1]
    assert largest_difference(alone, workspace / "runs/machines") < SAME
