"""Nearly right input to every command that reads files: exit codes 0, 1 and 2, no traceback, nothing half-written.

`make fuzz` gives each target a minute (LCM_FUZZ_SECONDS); what fails is kept as files in `fuzz_seeds/TARGET/`, which
are tried first from then on. Not part of `make test`.
"""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import changed_bytes, json_bytes, lines, trees

SECONDS = float(os.environ.get("LCM_FUZZ_SECONDS", "5"))
SEEDS = Path(__file__).parent / "fuzz_seeds"
ROOT = Path(__file__).parents[2]

Files = Mapping[str, bytes]
"""Files to write, by their place in the working folder; None of them leaves it."""

TEXT = "The sun rises over the hills. A river runs through the town. Nobody came."
ROWS = [{"text": TEXT, "id": f"d{i}", "language": "eng_Latn", "title": f"T{i}", "timestamp": "1945"} for i in range(4)]
CHATS = [
    {"messages": [{"role": "user", "content": "Hello there."}, {"role": "assistant", "content": TEXT, "weight": 1}]},
    {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because. It is so."}]},
    {"instruction": "Say it.", "input": "", "output": "It is said.", "history": [["One.", "Two."]]},
    {"prompt": "A question?", "completion": "An answer."},
]
SIZES = [
    "--set",
    "model.width=32",
    "--set",
    "model.num_heads=2",
    "--set",
    "model.ffn_dim=32",
    "--set",
    "model.num_layers=1",
]
RUN = {
    "model": "m",
    "data": {"path": "d", "row_length": 8, "micro_batch": 2, "sets": []},
    "train": {"steps": 2, "lr": 0.001, "betas": [0.9, 0.95], "ema": {"decay": 0.9}, "checkpoint": {"every": 1}},
}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set `d` and a model `m`, made by the commands."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "text.jsonl").write_bytes(b"\n".join(json_bytes(row | {"id": str(i)}) for i, row in enumerate(ROWS * 3)))
    for line in (
        ["data", "build", "text.jsonl", "--out", "d", "--codec-option", "dim=4"],
        ["bootstrap", "--data", "d", "--out", "m", *SIZES],
    ):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-m", "lexalcm", *line], cwd=folder, env=environment, check=True)
    return folder


@pytest.fixture
def fuzz(lcm: Callable[..., Any], made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> Any:
    """Tries input for as long as there is time: `fuzz(strategy of files, check)`."""

    def attempt(files: Files, check: Callable[[Callable[..., int]], None]) -> None:
        folder = tmp_path / "work"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(made, folder)
        monkeypatch.chdir(folder)
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)

        def run(*line: str) -> int:
            result = lcm(*line)
            assert result.code in (0, 1, 2), result.code
            assert "Traceback" not in result.err, result.err[-2000:]
            if result.code:
                complaint = result.err.strip().splitlines()[-1]
                found = result.code == 1 and line[0] == "verify" and "problems found" in complaint
                assert found or complaint.startswith("lcm: "), result.err[-2000:]
            return int(result.code)

        check(run)

    def loop(strategy: st.SearchStrategy[Files], check: Callable[[Callable[..., int]], None]) -> None:
        target = request.node.name.removeprefix("test_")
        for seed in sorted((SEEDS / target).glob("*")):
            attempt({str(one.relative_to(seed)): one.read_bytes() for one in seed.rglob("*") if one.is_file()}, check)
        runs, end, failing = 0, time.monotonic() + SECONDS, {}

        def one(files: Files) -> None:
            nonlocal runs, failing
            runs += 1
            failing = dict(files)
            attempt(files, check)

        quiet = settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        try:
            while time.monotonic() < end:
                quiet(given(strategy)(one))()
        except BaseException:
            digest = hashlib.sha256(b"".join(failing.values())).hexdigest()[:12]
            for name, data in failing.items():
                file = SEEDS / target / digest / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
            raise
        print(f"{target}: {runs} inputs")
        assert runs

    return loop


def built(run: Callable[..., int], *line: str) -> None:
    """A command that makes the data set `out`: whole, or not there."""
    if run(*line, "--out", "out"):
        assert not Path("out").exists()
    else:
        assert run("verify", "data", "out") == 0


def test_rows(fuzz):
    files = lines(ROWS).map(lambda data: {"rows.jsonl": data})
    fuzz(files, lambda run: built(run, "data", "build", "rows.jsonl", "--codec-option", "dim=4"))


def test_chats(fuzz):
    files = lines(CHATS).map(lambda data: {"chats.jsonl": data})
    fuzz(files, lambda run: built(run, "data", "build", "chats.jsonl", "--codec-option", "dim=4"))


COLUMNS: dict[str, list[pa.Array]] = {
    "text": [
        pa.array([TEXT, "Once more. And again."]),
        pa.array([TEXT, None]),
        pa.array([b"\xff\xfe", b"It rained."]).cast(pa.binary()),
        pa.array([TEXT, TEXT]).dictionary_encode(),
        pa.array([TEXT, "x"], pa.string_view()),
        pa.array([1, 2]),
        pa.array([["One.", "Two."], ["Three."]]),
        pa.array([{"a": TEXT}, {"a": "b"}]),
        pa.nulls(2),
    ],
    "embedding": [
        pa.array([[[1.0, 2.0]] * 2, [[3.0, 4.0]]], pa.list_(pa.list_(pa.float32()))),
        pa.array([[[1.0, 2.0]] * 2, [[3.0]]], pa.list_(pa.list_(pa.float32()))),
        pa.array([[[float("nan"), 2.0]], None], pa.list_(pa.list_(pa.float64()))),
        pa.array([[], [[1.0, float("inf")]]], pa.list_(pa.list_(pa.float32()))),
        pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32())),
        pa.array([b"\x00" * 8, b"\x00" * 7]),
        pa.array(["a", "b"]),
    ],
    "sentences": [pa.array([["One.", "Two."], ["Three."]]), pa.array([["One."], None]), pa.array(["One.", "Two."])],
    "id": [
        pa.array([1, 2]),
        pa.array([None, "a"]),
        pa.array([float("nan"), 1.0]),
        pa.array([0, 1], pa.timestamp("ns")),
        pa.array([0, 1], pa.duration("ns")),
    ],
    "lang": [pa.array(["eng_Latn", "jpn_Jpan"]), pa.array(["en", None]), pa.array([3, 4])],
}


def tables() -> st.SearchStrategy[bytes]:
    columns = {name: st.sampled_from([None, *choices]) for name, choices in COLUMNS.items()}

    def written(chosen: dict[str, Any]) -> bytes:
        file = io.BytesIO()
        pq.write_table(pa.table({name: one for name, one in chosen.items() if one is not None}), file)
        return file.getvalue()

    whole = st.fixed_dictionaries(columns).map(written)
    return st.one_of(whole, whole.flatmap(changed_bytes))


def test_parquet(fuzz):
    def check(run: Callable[..., int]) -> None:
        built(run, "data", "build", "p.parquet", "--codec-option", "dim=4")
        shutil.rmtree("out", ignore_errors=True)
        line = [
            "data",
            "convert",
            "p.parquet",
            "--codec",
            "sonar",
            "--text-column",
            "sentences",
            "--embedding-column",
            "embedding",
        ]
        built(run, *line)

    fuzz(tables().map(lambda data: {"p.parquet": data}), check)


def tars() -> st.SearchStrategy[bytes]:
    arrays = [
        np.ones((3, 4), np.float32),
        np.full((2, 4), np.nan, np.float16),
        np.ones((2, 5), np.float32),
        np.ones(4, np.float32),
        np.zeros((0, 4), np.float32),
        np.array(["a"]),
        np.array(1.0),
        np.ones((2, 4), np.complex64),
    ]
    names = ["a.npy", "b.npy", "b.txt", "c.npy", "../x.npy", "/x.npy", "d/e.npy", "\udcff.npy", "a" * 300 + ".npy", "f"]

    def member(array: np.ndarray) -> bytes:
        file = io.BytesIO()
        np.save(file, array)
        return file.getvalue()

    def written(members: list[tuple[str, bytes]]) -> bytes:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as tar:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return file.getvalue()

    data = st.sampled_from(arrays).map(member)
    members = st.tuples(st.sampled_from(names), st.one_of(data, data.flatmap(changed_bytes)))
    whole = st.lists(members, max_size=4).map(written)
    return st.one_of(whole, whole.flatmap(changed_bytes))


def test_tars(fuzz):
    def check(run: Callable[..., int]) -> None:
        built(run, "data", "convert", "w", "--codec", "sonar", "--no-text", "--dim", "4")

    fuzz(tars().map(lambda data: {"w/0.tar": data}), check)


def test_manifest_and_index(fuzz, made):
    manifest = json.loads((made / "d" / "dataset.json").read_text())
    columns = dict(np.load(made / "d" / "train.index.npz"))
    others: list[Any] = [
        np.array(1),
        np.array(["a"] * 3),
        np.full(3, -1),
        np.full(3, 2**62),
        np.ones(3, np.float64) * np.nan,
        np.zeros((2, 2), np.uint8),
        np.zeros(0),
    ]

    def saved(changes: dict[str, Any]) -> bytes:
        file = io.BytesIO()
        np.savez(file, **{name: columns[name] if one is None else one for name, one in changes.items()})
        return file.getvalue()

    choices = {name: st.sampled_from([None, None, None, *others]) for name in columns}
    index = st.fixed_dictionaries({}, optional=choices).map(saved)
    files = st.one_of(
        trees(manifest).map(lambda tree: {"d/dataset.json": json_bytes(tree)}),
        changed_bytes(json.dumps(manifest).encode()).map(lambda data: {"d/dataset.json": data}),
        index.map(lambda data: {"d/train.index.npz": data}),
        index.flatmap(changed_bytes).map(lambda data: {"d/train.index.npz": data}),
        changed_bytes((made / "d" / "train-000000.tar").read_bytes()).map(lambda data: {"d/train-000000.tar": data}),
        changed_bytes((made / "d" / "normalizer.safetensors").read_bytes()).map(
            lambda data: {"d/normalizer.safetensors": data}
        ),
    )

    def check(run: Callable[..., int]) -> None:
        run("verify", "data", "d")
        run("data", "info", "d")
        run("bootstrap", "--data", "d", "--out", "new", *SIZES)

    fuzz(files, check)


def test_model_folder(fuzz, made):
    def read(name: str) -> Any:
        return json.loads((made / "m" / name).read_text())

    jsons = [
        trees(read(name)).map(lambda tree, name=name: {f"m/{name}": json_bytes(tree)})
        for name in ("config.json", "generation_config.json", "bootstrap.json", "codec/lsa.json")
    ]
    binaries = [
        changed_bytes((made / "m" / name).read_bytes()).map(lambda data, name=name: {f"m/{name}": data})
        for name in ("config.json", "model.safetensors", "special_concepts.safetensors", "codec/lsa.safetensors")
    ]

    def check(run: Callable[..., int]) -> None:
        run("verify", "model", "m")
        run("infer", "--model", "m", "-n", "1", "--steps", "2", "Nobody came.")

    fuzz(st.one_of(*jsons, *binaries), check)


def test_settings(fuzz):
    def as_yaml(tree: Any) -> bytes:
        return yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", errors="surrogatepass")

    changed = trees(RUN)
    files = st.one_of(changed.map(as_yaml), changed.map(json_bytes), changed.map(as_yaml).flatmap(changed_bytes))

    def check(run: Callable[..., int]) -> None:
        run("train", "--config", "run.yaml", "--plan", "--gpu-memory", "12GB")

    fuzz(files.map(lambda data: {"run.yaml": data}), check)


def test_deepspeed_file(fuzz):
    known = json.loads((ROOT / "configs" / "zero2.json").read_text())
    known |= {"gradient_clipping": 1.0, "train_batch_size": "auto", "optimizer": {"type": "AdamW", "params": {"lr": 1}}}
    changed = trees(known).map(json_bytes)
    files = st.one_of(changed, changed.flatmap(changed_bytes)).map(lambda data: {"ds.json": data})

    def check(run: Callable[..., int]) -> None:
        line = "train --model m --data d --deepspeed ds.json --dry-run --set data.row_length=8"
        run(*line.split())
        assert not Path("runs").exists()

    fuzz(files, check)
