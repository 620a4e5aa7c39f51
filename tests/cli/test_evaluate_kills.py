"""`lcm evaluate --out`, killed at random moments from its start to the end of its report: the same line goes on."""

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from evaluation_workspace import make_text_dataset, make_text_model
from lcm_processes import Processes, lcm_processes

IMPORTS = [
    "lexalcm.evaluate.run.models",
    "lexalcm.evaluate.run.tasks",
    "lexalcm.codec.lsa.codec",
    "lexalcm.distributed.world",
]
KILLS = 20
FILES = ("report.json", "report.md")


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with lcm_processes(tmp_path, IMPORTS) as made:
        yield made


def kept(folder: Path) -> list[tuple[int, int]]:
    """(predictor, batch) of every whole line of an unfinished evaluation."""
    content = b"".join(part.read_bytes() for part in sorted(folder.glob("part-*")))
    records = [json.loads(line) for line in content.splitlines(keepends=True) if line.endswith(b"\n")]
    return [(record["predictor"], record["unit"]) for record in records]


def test_twenty_kills_lose_and_repeat_nothing(processes: Processes, tmp_path: Path) -> None:
    dataset = make_text_dataset(tmp_path / "data")
    for seed in (1, 2):
        make_text_model(tmp_path / f"model-{seed}", dataset, seed=seed)

    def line(prefix: str = "") -> list[str]:
        files = [part for name in FILES for part in ("-o", prefix + name)]
        given = ["--data", "data", "--metrics", "all", "--batch", "8", "--resamples", "500"]
        return ["evaluate", "model-1", "model-2", *given, *files]

    assert processes.wait(processes.start(line("whole-"))) == 0, processes.log.read_text()  # warms the disk's cache
    began = time.monotonic()
    assert processes.wait(processes.start(line("whole-"))) == 0
    seconds = time.monotonic() - began
    whole = {name: (tmp_path / f"whole-{name}").read_bytes() for name in FILES}
    tree = json.loads(whole["report.json"])
    assert tree["sizes"]["all"] == {
        "documents": 14,
        "targets": sum(int(n) - 1 for n in dataset.split("validation").lengths),
    }
    units = tree["dataset"]["batches"] * len(tree["rows"])

    folder = tmp_path / "report.json.unfinished"
    moment = random.Random(0)
    kills, left, before = 0, [], []
    while kills < KILLS:
        process = processes.start(line())
        time.sleep(moment.uniform(0, 1.05 * seconds))
        if (code := processes.ask(poll=process)) is None:
            os.kill(process, signal.SIGKILL)
            code = processes.wait(process)
        reports = {name: (tmp_path / name).read_bytes() for name in FILES if (tmp_path / name).exists()}
        assert all(whole[name] == content for name, content in reports.items())  # whole, or not there
        if code == -signal.SIGKILL:
            kills += 1
            done = kept(folder)
            assert len(set(done)) == len(done)  # nothing is scored twice
            assert done[: len(before)] == before or reports.keys() == set(FILES)  # nor lost, until the report is there
            left.append(len(done))
            before = done
            continue
        assert (code, reports) == (0, whole), processes.log.read_text()
        assert not folder.exists()
        for name in FILES:
            (tmp_path / name).unlink()
        before = []
    assert processes.wait(processes.start(line())) == 0, processes.log.read_text()
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == whole
    assert not folder.exists()
    assert any(0 < count < units for count in left)  # some hit it in its work
