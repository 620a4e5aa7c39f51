"""Measure the memory of a free-running evaluation: what it takes beyond the model and its codec.

    python -m tools.bench_evaluate
    python -m tools.bench_evaluate --documents 200 --preset base-tiny

Documents are sentences of the packaged text, put together at random; the model is new. A process of its own opens model
and codec, then evaluates a tenth of the documents, then all of them, with every metric that needs no language model and
all baselines. The last line is one JSON object: `loaded_mb` is the peak of the process's memory once model and codec
are there, `few_mb` and `peak_mb` are what the peaks of the two evaluations lie above it, `seconds` is of the second.
"""

import argparse
import gc
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lexalcm.data.build.one_process import build_from_paths
from lexalcm.data.build.settings import BuildSettings
from lexalcm.data.sources.corpus import Source, read_documents
from lexalcm.data.sources.sample import packaged_text
from lexalcm.evaluate.run.models import evaluate
from lexalcm.evaluate.settings import EvaluationSettings, FreeRunning
from lexalcm.generate.text import TextModel
from lexalcm.text.segment import segment
from lexalcm.train.bootstrap import BootstrapRequest, bootstrap_model

SENTENCES = 15  # of a document: five are given, ten are written
EVERY = 10  # of the packaged documents, every n-th gives sentences


def main() -> int:
    """Make data and model, measure them in a clean process, print; the exit code."""
    parser = argparse.ArgumentParser(description="Measure the memory of a free-running evaluation.")
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--preset", default="two-tower-tiny")
    parser.add_argument("--batch", type=int, default=512, help="concepts of an evaluation batch, at least")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # of the process that measures
    arguments = parser.parse_args()
    if arguments.folder is not None:
        print(json.dumps(measure(arguments.folder, arguments.documents, arguments.batch)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), arguments.documents, arguments.preset)
        command = [sys.executable, "-m", "tools.bench_evaluate", "--folder", folder]
        command += ["--documents", str(arguments.documents), "--batch", str(arguments.batch)]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    print(json.dumps({"preset": arguments.preset, "documents": arguments.documents, **found}))
    return 0


def make(folder: Path, documents: int, preset: str) -> None:
    """Write a data set of a number of documents, `data`, and a new model for it, `model`."""
    with packaged_text() as path:
        chosen = [one for one in read_documents([Source(path, path.name)]) if one.lang == "eng_Latn"][::EVERY]
    known = list(dict.fromkeys(sentence for one in chosen for sentence in segment(one.text, one.lang)))
    drawn = random.Random(0)
    with (folder / "documents.txt").open("w", encoding="utf-8") as file:
        for _ in range(documents):
            file.write("\n".join(drawn.sample(known, SENTENCES)) + "\n\n")
    built = build_from_paths([folder / "documents.txt"], folder / "data", BuildSettings(validation=0))
    bootstrap_model(BootstrapRequest.of(preset, built.dataset, 0, ()), built.dataset, folder / "model")


def measure(folder: Path, documents: int, batch: int) -> dict[str, float]:
    """Evaluate a tenth of the documents, and all; megabytes and seconds."""
    writer = TextModel.open(folder / "model")
    loaded = peak_mb()
    del writer  # the evaluation opens its own
    gc.collect()
    peaks, seconds, targets = [], 0.0, 0
    for limit in (max(1, documents // 10), documents):
        settings = EvaluationSettings(split="train", limit=limit, batch=batch, free=FreeRunning(), resamples=100)
        began = time.perf_counter()
        evaluation = evaluate([folder / "model"], folder / "data", settings)
        seconds = time.perf_counter() - began
        targets = 0 if evaluation is None else evaluation.sizes["all"].targets
        peaks.append(peak_mb() - loaded)
    return {
        "sentences_written": targets,
        "loaded_mb": round(loaded, 1),
        "few_mb": round(peaks[0], 1),
        "peak_mb": round(peaks[1], 1),
        "seconds": round(seconds, 1),
    }


def peak_mb() -> float:
    """The most memory that this program has had; `getrusage` would count the process that it was forked from too."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6


if __name__ == "__main__":
    sys.exit(main())
