"""One package outside this one adds one thing of every kind, each by a line, and `lcm` uses them all."""

import json
import os
import re
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import zstandard

from lexalcm.data.sources.sample import packaged_text

ROOT = Path(__file__).parents[2]
EXTENSIONS = ROOT / "tests" / "extensions"
ENTRY_POINTS = """
[lexalcm.samplers]
heun = heun_sampler:HEUN

[lexalcm.engines]
timed = timed_engine:TimedEngine

[lexalcm.architectures]
ngram = ngram:NgramLCM

[lexalcm.objectives]
cosine = cosine:Cosine

[lexalcm.codecs]
hashed-words = hashed_words:HashedWordsCodec

[lexalcm.metrics]
norm_ratio = norm_ratio:NORM_RATIO
"""


@pytest.fixture(scope="module")
def lcm(tmp_path_factory):
    """Runs a command line in a process of its own, with the package installed; what it prints."""
    site = shutil.copytree(EXTENSIONS, tmp_path_factory.mktemp("site") / "site")
    about = site / "everything-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: everything\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    work = tmp_path_factory.mktemp("work")
    with packaged_text() as path, zstandard.open(path, "rt", encoding="utf-8") as lines:
        (work / "text.jsonl").write_text("".join(islice(lines, 16)))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(site)]), "COLUMNS": "120"}

    def run(line: str) -> str:
        command = [sys.executable, "-m", "lexalcm", *line.split()]
        result = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout

    run.work = work
    run("data build text.jsonl --out d --codec hashed-words --validation 0.25")
    run("bootstrap --preset ngram-tiny --data d --out models/ngram")
    run("bootstrap --preset two-tower-tiny --data d --out models/tower")
    return run


def test_all_are_used_together(lcm):
    line = "train --model models/ngram --data d --name r --engine timed --objective cosine --steps 4"
    trained = json.loads(lcm(f"{line} --set train.log_every=1 --json"))
    assert trained["step"] == 4
    text = (lcm.work / "text.jsonl").read_text()
    written = json.loads(lcm("infer --model runs/r -n 2 --stop-repetition 1 --json Nobody_came."))
    assert len(written["sentences"]) == 2
    assert all(one["text"] in text for one in written["sentences"])  # the codec answers with sentences of the corpus
    report = json.loads(lcm("evaluate runs/r --data d --metrics norm_ratio,squared_l2 --resamples 100 --json"))
    scores = {row["name"]: row["scores"]["all"]["norm_ratio"]["value"] for row in report["rows"]}
    assert scores["the true concepts"] == pytest.approx(1)
    sampled = json.loads(lcm("infer --model models/tower --sampler heun --steps 3 -n 1 --json Nobody_came."))
    assert sampled["sentences"][0]["text"] in text


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("infer --help", "heun"),
        ("train --help", "timed"),
        ("train --help", "cosine"),
        ("bootstrap --list", "ngram-tiny"),
        ("--version", "codec hashed-words: everything 1.0"),
        ("evaluate --list-metrics", "norm_ratio"),
    ],
)
def test_what_is_registered_is_listed(lcm, line, name):
    assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", lcm(line))


def test_the_page_shows_these_very_files():
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    for file in EXTENSIONS.glob("*.py"):
        assert f"```python\n{file.read_text(encoding='utf-8')}```" in page, file.name
    for line in re.findall(r"^(\S+) = (\S+)$", ENTRY_POINTS, re.MULTILINE):
        assert f'{line[0]} = "{line[1]}"' in page
