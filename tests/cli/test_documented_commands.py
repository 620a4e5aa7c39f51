"""The commands of the documentation do what they say: every marked block is run, as it is written.

Blocks of one group are run one behind the other in one folder. A group `start...` begins in a folder with some texts
and nothing else, as a newcomer does; any other begins where group `start` of the README ended. `lcm` is a small one
there, see `warm_lcm.py`.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from documented import ROOT, Block, all_blocks, commands

from lexalcm.data.sources.corpus import Document, Source, read_documents
from lexalcm.data.sources.sample import packaged_text

START = "start"
BLOCKS: dict[str, list[Block]] = {}
for _block in all_blocks():
    if _block.group is not None:
        BLOCKS.setdefault(_block.group, []).append(_block)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the pages speak of, cut from the packaged text."""
    folder = tmp_path_factory.mktemp("texts")
    with packaged_text() as path:
        documents = list(read_documents([Source(path, path.name)]))
    english = [document for document in documents if document.lang == "eng_Latn"][::25]
    japanese = [document for document in documents if document.lang == "jpn_Jpan"][::3]
    half = len(english) // 2
    write_text(folder / "notes.txt", english[:half])
    write_text(folder / "日記.txt", japanese)
    for name, part in (("books", english[:half]), ("texts", english[half:])):
        for number in range(2):
            write_text(folder / name / f"{number}.txt", part[number::2])
    write_lines(folder / "notes.jsonl", [{"id": d.id, "title": d.title, "text": d.text} for d in english[half:]])
    for name, part in (("chats.jsonl", english), ("対話.jsonl", japanese)):
        write_lines(folder / name, [conversation(document) for document in part])
    write_lines(folder / "prompts.jsonl", [{"id": f"p{i}", "text": d.text[:200]} for i, d in enumerate(english[:3])])
    tasks = [{"source": d.text[:400], "reference": d.text[400:600]} for d in english[:3]]
    write_lines(folder / "summaries.jsonl", tasks)
    (folder / "speech.txt").write_text(english[0].text, encoding="utf-8")
    for name in ("configs", "launch", "tools", "tests"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def write_text(file: Path, documents: list[Document]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text("\n\n".join(document.text.replace("\n\n", "\n") for document in documents), encoding="utf-8")


def write_lines(file: Path, records: list[dict]) -> None:
    file.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")


def conversation(document: Document) -> dict:
    """A document as if two had spoken it, paragraph by paragraph."""
    paragraphs = [text for text in document.text.splitlines() if text.strip()]
    paragraphs += paragraphs[:1] * (len(paragraphs) % 2)
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(paragraphs)]
    return {"messages": turns}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Variables with which `lcm` is the small one."""
    folder = tmp_path_factory.mktemp("bin")
    script = Path(__file__).with_name("warm_lcm.py")
    (folder / "lcm").write_text(f'#!/bin/sh\nexec {sys.executable} -SE {script} "$@"\n')
    (folder / "lcm").chmod(0o755)
    (folder / "python").symlink_to(sys.executable)
    variables = os.environ | {
        "PATH": f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "LEXALCM_CACHE": str(folder / "cache"),
        "LCM_SOCKET": str(folder / "socket"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
    }
    server = subprocess.Popen([sys.executable, script, "serve", variables["LCM_SOCKET"]], env=variables)
    deadline = time.monotonic() + 120
    while not Path(variables["LCM_SOCKET"]).exists():
        assert server.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    yield variables
    server.kill()
    server.wait()


def run(group: str, folder: Path, environment: dict[str, str]) -> None:
    for block in BLOCKS.get(group, ()):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.text],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        told = f"{block}:\n{block.text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        assert done.returncode == 0, told
        assert not [name for name in written_by(block) if not has_something(folder / name)], told


def written_by(block: Block) -> list[str]:
    """What the lines of a block say that they write."""
    options = ("--out", "-o", "--output", "--save-embeddings")
    return [
        value
        for line in commands(block.text)
        for option, value in pairwise(line)
        if option in options and value != "-" and "*" not in value
    ]


def has_something(path: Path) -> bool:
    """Whether a folder or a file of this name is there and not empty; a suffix may have been added."""
    found = path.parent.glob(f"{path.name}*")
    return any(any(one.iterdir()) if one.is_dir() else one.stat().st_size > 0 for one in found)


@pytest.fixture(scope="module")
def started(texts: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the README's first lines were typed."""
    folder = tmp_path_factory.mktemp(START) / "folder"
    shutil.copytree(texts, folder, symlinks=True)
    run(START, folder, environment)
    return folder


@pytest.mark.parametrize("group", sorted(BLOCKS))
def test_the_commands_of_a_group_run(
    group: str, texts: Path, started: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    if group == START:
        assert (started / "runs" / "base" / "model" / "model.safetensors").is_file()
        return
    shutil.copytree(texts if group.startswith(START) else started, tmp_path / "folder", symlinks=True)
    run(group, tmp_path / "folder", environment)
