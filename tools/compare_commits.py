"""Do two commits compute the same? Short trainings, generation and an evaluation at both, number by number.

    python -m tools.compare_commits HEAD~1 HEAD        # about four minutes on two idle cores
    python -m tools.compare_commits main my-branch --tolerance 1e-6

Each commit is checked out into a temporary worktree and used as its user would use it: `lcm data build` on the same
text, `lcm bootstrap`, `lcm train` of every architecture under two engines, `lcm infer` and `lcm evaluate`, with the
interpreter present (Python 3.11 or newer). A change that is not meant to change numbers gives 0 everywhere. What is
printed for each quantity is the largest difference, relative to the larger of the two numbers for losses and metrics,
to the largest of the tensor for weights and concepts; names that only one commit has are listed. The last line is one
JSON object; the exit code is 1 above `--tolerance`, and 2 where a commit cannot be used. Biases of attention's keys,
whose gradients are rounding errors (see `tools.check_curve`), have a line of their own and fail only where everything
must be equal.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tomllib
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[1]
ARCHITECTURES = ("base", "one-tower", "two-tower")
ENGINES = {"single": ["--engine", "single"], "zero2": ["--deepspeed", "configs/zero2.json"]}
STEPS = 6
SENTENCES = (
    "The harbour was quiet that morning.",
    "A boat came in with the tide.",
    "Two men stepped ashore and looked around.",
    "Nobody asked them for their names.",
    "The rain had stopped before noon.",
    "They walked up the hill to the old church.",
)
DOCUMENTS = 48
KEY_BIASES = "biases of keys"

Quantities = dict[str, np.ndarray]
"""What was computed, by name."""


class UnusableCommitError(Exception):
    """A commit that is not there, or whose commands fail."""


def main() -> int:
    """Run both, compare, print; the exit code."""
    parser = argparse.ArgumentParser(description="Compare what two commits compute.")
    parser.add_argument("commits", nargs=2, metavar="COMMIT")
    parser.add_argument("--tolerance", type=float, default=0.0, help="largest relative difference that passes")
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            before, after = (
                compute(commit, Path(folder) / place) for commit, place in zip(arguments.commits, "ab", strict=True)
            )
    except UnusableCommitError as error:
        print(error, file=sys.stderr)
        return 2
    line = compare(before, after, arguments.tolerance)
    print(json.dumps(line))
    return 0 if line["passed"] else 1


def compute(commit: str, folder: Path) -> Quantities:
    """Everything that a commit computes, in a folder to be made.

    Raises:
        UnusableCommitError: there is no such commit, or one of its commands fails.
    """
    work = folder / "work"
    with worktree(commit, folder / "checkout") as checkout:
        _describe(checkout)
        work.mkdir()
        (work / "configs").symlink_to(checkout / "configs")
        (work / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts()))
        line = ["data", "build", "text.jsonl", "--out", "data/text", "--codec-option", "dim=16", "--validation", "0.25"]
        _lcm(checkout, work, line)
        return dict(_computed(checkout, work))


def _describe(checkout: Path) -> None:
    """Write the metadata of a checkout that an installation would: early commits find their codecs by it."""
    project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    about = checkout / f"{project['name']}.egg-info"
    about.mkdir()
    (about / "PKG-INFO").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0\n")
    groups = project.get("entry-points", {})
    lines = [f"[{group}]\n" + "".join(f"{n} = {v}\n" for n, v in names.items()) for group, names in groups.items()]
    (about / "entry_points.txt").write_text("\n".join(lines))


def texts() -> list[str]:
    """Documents of a few sentences, all different."""
    generator = np.random.default_rng(0)
    return [
        " ".join(f"{SENTENCES[place][:-1]} in the year {1800 + document}." for place in order)
        for document, order in enumerate(generator.permuted(np.tile(np.arange(len(SENTENCES)), (DOCUMENTS, 1)), axis=1))
    ]


@contextmanager
def worktree(commit: str, folder: Path) -> Iterator[Path]:
    """A commit checked out into a folder, which is gone afterwards."""
    made = _git("worktree", "add", "--detach", "--force", str(folder), commit)
    if made.returncode:
        raise UnusableCommitError(f"no commit {commit} here: {made.stderr.strip().splitlines()[-1]}")
    try:
        yield folder
    finally:
        _git("worktree", "remove", "--force", str(folder))


def compare(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], tolerance: float) -> dict[str, Any]:
    """Print the largest difference of each kind of quantity; what it comes to."""
    worst: dict[str, tuple[float, str]] = {}
    for name in sorted(before.keys() & after.keys()):
        kind = name.partition(":")[0]
        worst[kind] = max(worst.get(kind, (-1.0, "")), (difference(before[name], after[name]), name))
    for kind, (value, name) in worst.items():
        print(f"{kind:<48} {value:.1e}  {name.partition(':')[2]}")
    lost, new = sorted(before.keys() - after.keys()), sorted(after.keys() - before.keys())
    for text, names in (("only before", lost), ("only after", new)):
        for name in names[:10]:
            print(f"{text}: {name}")
        if len(names) > 10:
            print(f"{text}: {len(names) - 10} more")
    judged = [value for kind, (value, _) in worst.items() if tolerance == 0 or not kind.endswith(KEY_BIASES)]
    largest = max(judged, default=float("inf"))
    passed = largest <= tolerance and not lost and not new
    return {"largest": largest, "only_before": len(lost), "only_after": len(new), "passed": passed}


def difference(before: np.ndarray, after: np.ndarray) -> float:
    """The largest difference over the largest number; infinite where shapes differ or one alone is not finite."""
    if before.shape != after.shape or not np.array_equal(np.isfinite(before), np.isfinite(after)):
        return float("inf")
    finite = np.isfinite(before)
    scale = max(np.abs(before[finite]).max(initial=0.0), np.abs(after[finite]).max(initial=0.0))
    return float(np.abs(before[finite] - after[finite]).max(initial=0.0) / scale) if scale else 0.0


def _computed(checkout: Path, work: Path) -> Iterator[tuple[str, np.ndarray]]:
    for architecture in ARCHITECTURES:
        model = f"models/{architecture}"
        _lcm(checkout, work, f"bootstrap --preset {architecture}-tiny --data data/text --out {model}".split())
        yield from _tensors(f"{architecture}, new weights", work / model)
        for engine, options in ENGINES.items():
            run = f"{architecture}-{engine}"
            line = f"train --model {model} --data data/text --name {run} --steps {STEPS}".split()
            line += ["--set", "train.log_every=1", "--set", "train.validate_every=3", "--set", "train.warmup_steps=2"]
            _lcm(checkout, work, [*line, *options])
            for text in (work / "runs" / run / "metrics.jsonl").read_text().splitlines():
                metrics = json.loads(text)
                for name in ("loss", "grad_norm", "validation_loss"):
                    if name in metrics:
                        yield f"{run}, {name}:step {metrics['step']}", np.float64(metrics[name])
            yield from _tensors(f"{run}, trained weights", work / "runs" / run / "model")
        run = f"runs/{architecture}-{next(iter(ENGINES))}"
        line = f"infer --model {run} -n 3 --stop-similarity 1 --stop-repetition 1 --save-embeddings {run}.npy".split()
        _lcm(checkout, work, [*line, SENTENCES[0]])
        yield f"{architecture}, generated concepts:all", np.load(work / f"{run}.npy")
        report = json.loads(_lcm(checkout, work, f"evaluate {run} --data data/text --resamples 100 --json".split()))
        for name, value in _numbers(report, ""):
            yield f"{architecture}, evaluation:{name}", value


def _tensors(kind: str, model: Path) -> Iterator[tuple[str, np.ndarray]]:
    for name, tensor in load_file(model / "model.safetensors").items():
        yield f"{kind}{f', {KEY_BIASES}' if name.endswith('k_proj.bias') else ''}:{name}", tensor


def _numbers(tree: Any, name: str) -> Iterator[tuple[str, np.ndarray]]:
    """The numbers of a JSON tree but those of time, by dotted names."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if "second" not in key and "time" not in key.split("_"):
                yield from _numbers(value, f"{name}.{key}" if name else key)
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from _numbers(value, f"{name}.{number}")
    elif isinstance(tree, (int, float)) and not isinstance(tree, bool):
        yield name, np.float64(tree)


def _lcm(checkout: Path, work: Path, line: list[str]) -> str:
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    command = [sys.executable, "-m", "lexalcm", *line]
    result = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        said = result.stderr.strip().splitlines()[-1:]
        raise UnusableCommitError(f"{checkout}: lcm {' '.join(line)} ends with {result.returncode}: {' '.join(said)}")
    return result.stdout


def _git(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    sys.exit(main())
