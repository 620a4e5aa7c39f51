"""`lcm ...` on a machine without a GPU as if it had one or several.

    GPUS=2 GPU_GB=12 python tests/pretended_gpu.py train --nproc 2 --model models/tiny --set data.global_batch=2

What is pretended, and what is not, is said in `pretence/sitecustomize.py`.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parent
PRETENCE = TESTS / "pretence"
SONAR = TESTS / "data/reference_sonar"
IMPORTED = ("nvme_stand_in", "lexalcm.codec.lsa.codec", "lexalcm.codec.sonar.hf", "lexalcm.evaluate.run.evaluation")
PATIENCE = 120.0
TINY = {"width": 32, "num_heads": 2, "ffn_dim": 64, "num_layers": 2}
CODECS = {
    "lsa": ["--codec-option", "dim=16"],
    "sonar": [
        *("--codec", "sonar-hf", "--codec-device", "cuda", "--max-chars", "80"),
        *("--codec-option", f"weights={SONAR}", "--codec-option", "languages=[eng_Latn,fra_Latn,jpn_Jpan]"),
        *("--codec-option", "heads=4", "--codec-option", "max_seq_len=64"),
    ],
}
"""Options of `lcm data build`."""

ARCHITECTURES = ("base", "one-tower", "two-tower")


def with_pretence() -> str:
    """The PYTHONPATH with which torch answers as on a machine with GPUs."""
    return os.pathsep.join(filter(None, (str(PRETENCE), os.environ.get("PYTHONPATH"))))


def pretending(gpus: int = 1, memory: float = 80, places: bool = False) -> dict[str, str]:
    """Variables of the environment with which a Python process has GPUs.

    Args:
        gpus: how many.
        memory: GB of each.
        places: whether to stop where a tensor of the GPU meets one of the CPU's.
    """
    return {"PYTHONPATH": with_pretence(), "GPUS": str(gpus), "GPU_GB": str(memory), "PLACES": "1" if places else ""}


class Result(NamedTuple):
    code: int  # of the first process that did not end well, or 0
    output: str  # of all processes, stdout and stderr


class PretendedLcm:
    """Runs `lcm` command lines in a folder, each in processes of its own that a fork server starts in milliseconds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lines = 0
        self._process = subprocess.Popen(
            [sys.executable, str(TESTS / "distributed/fork_server.py"), *IMPORTED],
            cwd=folder,
            env=os.environ | pretending(gpus=0) | {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(
        self, *line: object, gpus: int = 1, memory: float = 80, places: bool = False, processes: int = 1
    ) -> Result:
        """Run a line to its end; `processes` start as srun starts them. No GPU at all is pretended with `gpus=0`."""
        self._lines += 1
        log = self.folder / f"line-{self._lines}.log"
        environment = pretending(gpus, memory, places)
        if processes > 1:
            environment |= {"SLURM_STEP_NUM_TASKS": str(processes), "SLURM_STEP_NODELIST": "localhost"}
            environment |= {"SLURM_STEP_TASKS_PER_NODE": str(processes), "MASTER_PORT": str(_free_port())}
        started = [
            self._ask(
                arguments=[str(word) for word in line],
                environment=environment | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
                output=str(log),
            )
            for rank in range(processes)
        ]
        codes = [self._wait(process, log) for process in started]
        return Result(next(filter(None, codes), 0), log.read_text())

    def well(self, *line: object, **pretended: object) -> str:
        """Run a line that must end well; what it prints."""
        result = self(*line, **pretended)
        assert result.code == 0, f"lcm {' '.join(map(str, line))}\n{result.output[-4000:]}"
        return result.output

    def close(self) -> None:
        """End the server."""
        self._process.stdin.close()
        self._process.wait(PATIENCE)

    def _wait(self, process: int, log: Path) -> int:
        deadline = time.monotonic() + PATIENCE
        while (code := self._ask(poll=process)) is None:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.005)
        return code

    def _ask(self, **request: object) -> int | None:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@contextmanager
def pretended_lcm(
    folder: Path, codecs: Sequence[str] = ("lsa",), imports: Sequence[str] = ()
) -> Iterator[PretendedLcm]:
    """`lcm` in a folder with configs, a text, a data set of it by each codec, and models of every architecture for it.

    They are made by the commands that a user types, with the GPU that is pretended. Folders are called `data/CODEC` and
    `models/CODEC-ARCHITECTURE`.
    """
    (folder / "configs").symlink_to(TESTS.parent / "configs")
    _write_text(folder / "notes.txt")
    lcm = PretendedLcm(folder)
    try:
        for codec in codecs:
            lcm.well("data", "build", "notes.txt", *CODECS[codec], "--out", f"data/{codec}", places=True)
            for architecture in ARCHITECTURES:
                sizes = TINY | ({"context_layers": 1} if architecture == "two-tower" else {})
                changes = [word for name, value in sizes.items() for word in ("--set", f"model.{name}={value}")]
                preset, out = f"{architecture}-tiny", f"models/{codec}-{architecture}"
                lcm.well("bootstrap", "--data", f"data/{codec}", "--preset", preset, *changes, "--out", out)
        yield lcm
    finally:
        lcm.close()


def _write_text(file: Path) -> None:
    """Some documents of the packaged text."""
    from lexalcm.data.sources.corpus import Source, read_documents
    from lexalcm.data.sources.sample import packaged_text

    with packaged_text() as path:
        documents = [one.text for one in read_documents([Source(path, path.name)]) if one.lang == "eng_Latn"]
    file.write_text("\n\n".join(text.replace("\n\n", "\n")[:2000] for text in documents[::24]), encoding="utf-8")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


if __name__ == "__main__":
    os.execve(
        sys.executable, [sys.executable, "-m", "lexalcm", *sys.argv[1:]], os.environ | {"PYTHONPATH": with_pretence()}
    )
