"""`lcm infer --output`, killed at random moments: the same line goes on, and the file is that of a run left alone."""

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lcm_processes import Processes, lcm_processes
from text_model_folder import make_text_model

IMPORTS = ["lexalcm.generate.batch.jobs", "lexalcm.cli.infer_files", "lexalcm.codec.lsa.codec"]
KILLS = 20
DOCUMENTS = 24


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with lcm_processes(tmp_path, IMPORTS) as made:
        yield made


def test_twenty_kills_lose_and_repeat_nothing(processes: Processes, tmp_path: Path) -> None:
    make_text_model(tmp_path / "model")
    texts = [f"This is document {number}. It has a number. " * (1 + number % 3) for number in range(DOCUMENTS)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))

    def line(output: str) -> list[str]:
        return ["infer", "--model", "model", "--input", "in.jsonl", "--output", output, "--batch", "4", "--steps", "6"]

    assert processes.wait(processes.start(line("whole.jsonl"))) == 0  # warms the disk's cache
    began = time.monotonic()
    assert processes.wait(processes.start([*line("whole.jsonl"), "--overwrite"])) == 0
    seconds = time.monotonic() - began
    whole = (tmp_path / "whole.jsonl").read_bytes()
    assert [json.loads(answer)["id"] for answer in whole.splitlines()] == [str(i + 1) for i in range(DOCUMENTS)]

    output = tmp_path / "out.jsonl"
    moment = random.Random(0)
    kills, left = 0, []
    while kills < KILLS:
        process = processes.start(line("out.jsonl"))
        time.sleep(moment.uniform(0, seconds))
        if (code := processes.ask(poll=process)) is None:
            os.kill(process, signal.SIGKILL)
            code = processes.wait(process)
        content = output.read_bytes() if output.exists() else b""
        assert whole.startswith(content)  # also within the last line
        if code == -signal.SIGKILL:
            kills += 1
            left.append(len(content))
            continue
        assert (code, content) == (0, whole), processes.log.read_text()
        output.unlink()  # again from the beginning, for the kills that are left
    assert processes.wait(processes.start(line("out.jsonl"))) == 0
    assert output.read_bytes() == whole
    assert any(0 < length < len(whole) for length in left)  # some hit it in its work
