"""How fast batches are planned and read, beside the plainest ways to do the same; ratios come from one run.

    python -m tools.bench_data                  # all, about a minute
    python -m tools.bench_data loader --documents 5000
    python -m tools.bench_data plan --plan-documents 1000000

loader: a data set with embeddings of SONAR's size is written to a temporary folder, then read with one process from a
warm page cache as a training would; beside it numpy copying as many bytes out of an array, a batch at a time, and
pandas reading the same documents from parquet, a row at a time (`np.stack` of its vectors). Loader and copy are
compared by processor time, which other work on the machine changes less. In a process's first epoch each document is
also compared with its checksum; that one is reported apart.

plan: an index of ten million documents on disk; the time from opening it to the first batch at a late step of a late
epoch, with and without reading the index, in a new process. Memory is the peak of what is held for it.

The last line is one JSON object.
"""

import argparse
import json
import sys
import tempfile
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from lexalcm.codec.base import CodecRecord
from lexalcm.codec.special import SPECIAL_FILE
from lexalcm.data.batches.loader import TrainingBatches
from lexalcm.data.batches.mixture import Mixture
from lexalcm.data.batches.plan import PackedRows, TrainingPlan
from lexalcm.data.batches.windows import Documents
from lexalcm.data.format.dataset import Dataset
from lexalcm.data.format.index import index_name
from lexalcm.data.format.manifest import LanguageCount, Manifest, ShardRecord, SplitRecord, write_manifest
from lexalcm.data.format.shards import ShardWriter
from lexalcm.data.normalizer.fit import NormalizerSettings
from lexalcm.data.settings import DataSettings
from lexalcm.train.memory.allocator import keep_freed_memory

DIM = 1024
REPEATS = 15
LANG = "eng_Latn"


def main() -> int:
    """Run the benchmarks named on the command line."""
    parser = argparse.ArgumentParser(description="Measure the plan and the loader.")
    parser.add_argument("parts", nargs="*", choices=["loader", "plan", []], help="what to measure; default: all")
    parser.add_argument("--documents", type=int, default=6000, help="documents that the loader reads")
    parser.add_argument("--plan-documents", type=int, default=10_000_000, help="documents that are planned")
    parser.add_argument("--folder", type=Path, help="where to write; default: the system's temporary folder")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"benchmark": "data"}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        if not arguments.parts or "loader" in arguments.parts:
            result["loader"] = bench_loader(Path(folder), arguments.documents)
        if not arguments.parts or "plan" in arguments.parts:
            result["plan"] = bench_plan(Path(folder), arguments.plan_documents)
    print(json.dumps(result))
    return 0


def document_lengths(count: int) -> np.ndarray:
    """Sentences as real documents have them: log-normal with a median of 30."""
    return np.random.default_rng(0).lognormal(3.4, 0.7, count).astype(np.int32).clip(2, 500)


def bench_loader(folder: Path, documents: int) -> dict[str, float]:
    """Read the documents in batches, by pandas, and as a plain copy of the same bytes."""
    lengths = document_lengths(documents)
    path = folder / "loader"
    path.mkdir()
    write_dataset(path, lengths)
    parquet, parquet_concepts = folder / "documents.parquet", write_parquet(folder / "documents.parquet", path)
    pandas = best(lambda: read_with_pandas(parquet), 3) / parquet_concepts
    settings = DataSettings(path=str(path), row_length=128, micro_batch=32, global_batch=1, end_of_text=False)
    batches = TrainingBatches(Mixture.open(settings), settings, seed=0)
    keep_freed_memory()  # as a training does: else both would mostly have pages zeroed

    def read_epoch() -> None:
        for _ in batches.iterate(0, batches.steps_per_epoch):
            pass

    per_epoch = batches.steps_per_epoch * settings.global_batch
    began = time.process_time()
    concepts = sum(int((batch.documents >= 0).sum()) for batch in batches.iterate(0, batches.steps_per_epoch))
    first = time.process_time() - began
    size = concepts * DIM * 2
    source = np.ones((per_epoch, size // per_epoch), np.uint8)

    def copy_epoch() -> None:
        for _ in map(np.copy, source):
            pass

    loader, copy = alternate(read_epoch, copy_epoch)
    return {
        "documents": documents,
        "concepts": concepts,
        "loader_first_epoch_gb_per_s": size / first / 1e9,
        "loader_gb_per_s": size / loader / 1e9,
        "numpy_copy_gb_per_s": size / copy / 1e9,
        "loader_to_numpy_copy": copy / loader,
        "loader_concepts_per_s": concepts / loader,
        "pandas_concepts_per_s": 1 / pandas,
        "loader_to_pandas": pandas / (loader / concepts),
    }


def write_dataset(folder: Path, lengths: np.ndarray) -> None:
    """A data set of random embeddings."""
    rng = np.random.default_rng(1)
    writer = ShardWriter(folder, "train", "float16", 256 * 1024**2)
    for number, n in enumerate(lengths.tolist()):
        sentences = [f"Sentence {place}." for place in range(n)]
        document = {"id": str(number), "lang": LANG, "title": "", "sentences": sentences, "metadata": {}}
        writer.add(document, rng.standard_normal((n, DIM), dtype=np.float32))
    write_description(folder, writer.close())


def write_description(folder: Path, split: SplitRecord) -> None:
    """What a folder of shards needs to be a data set."""
    codec = CodecRecord(name="none", dim=DIM, fingerprint="none")
    manifest = Manifest(codec=codec, dtype="float16", normalizer=NormalizerSettings(), splits={"train": split})
    write_manifest(folder, manifest)
    save_file({"end_of_text": np.zeros(DIM, np.float32)}, folder / SPECIAL_FILE)


def write_parquet(file: Path, dataset: Path) -> int:
    """The first documents of a data set as parquet: a row each, a list of vectors a row. Returns their concepts."""
    split = Dataset.open(dataset).split("train")
    documents = [split.embeddings(i).astype(np.float32) for i in range(min(len(split), 1000))]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(documents).ravel()), DIM)
    offsets = np.cumsum([0, *map(len, documents)])
    column = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), vectors)
    pq.write_table(pa.table({"text_sentences_sonar_emb": column}), file, row_group_size=100)
    return int(offsets[-1])


def read_with_pandas(file: Path) -> int:
    """The plain way: all rows into a frame, then row by row the vectors into an array."""
    frame = pd.read_parquet(file)
    return sum(len(np.stack(row["text_sentences_sonar_emb"])) for _, row in frame.iterrows())


def bench_plan(folder: Path, documents: int) -> dict[str, float]:
    """Begin a training on an index of many documents at a late step, in a process that has done nothing else."""
    path = folder / "plan"
    path.mkdir()
    write_index_of(path, document_lengths(documents))
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(measure_plan, str(path)).result()


def measure_plan(path: str) -> dict[str, float]:
    """What `bench_plan` reports."""
    settings = DataSettings(path=path, row_length=128, micro_batch=8, global_batch=16)
    tracemalloc.start()
    began = time.perf_counter()
    split = Mixture.open(settings).datasets[0].split("train")
    index_read = time.perf_counter()
    plan = TrainingPlan(PackedRows([Documents(split.lengths, suffix=1)], 128), micro_batch=8, global_batch=16, seed=0)
    step = 3 * plan.steps_per_epoch + plan.steps_per_epoch // 2
    plan.micro_batch_windows(step * 16)
    planned = time.perf_counter()
    peak = tracemalloc.get_traced_memory()[1]  # numpy's arrays are in it
    tracemalloc.stop()
    assert split._crc32 is not None
    held = split._offset.nbytes + split.lengths.nbytes + split._crc32.nbytes
    result = {
        "documents": len(split),
        "index_bytes_per_document": held / len(split),
        "read_index_s": index_read - began,
        "plan_to_late_step_s": planned - index_read,
        "peak_memory_mb": peak / 1e6,
        "fill": plan.rows.epoch_rows(3).fill,
        "plan_ms_per_step": best(lambda: [plan.targets_in_step(step + i) for i in range(200)], 1) / 200 * 1e3,
    }
    return result | {
        "open_and_resume_to_first_batch_s": best(lambda: first_batch(settings, step), 5),
        "open_and_resume_processor_s": best(lambda: first_batch(settings, step), 5, time.process_time),
    }


def write_index_of(folder: Path, lengths: np.ndarray) -> None:
    """A data set whose documents all lie over each other at the beginning of its one small shard."""
    size = int(lengths.max()) * DIM * 2 + 4096
    writer = ShardWriter(folder, "train", "float16", size)
    document = {"id": "0", "lang": LANG, "title": "", "sentences": [], "metadata": {}}
    writer.add(document, np.zeros((int(lengths.max()), DIM), np.float32))
    split = writer.close()
    with np.load(folder / index_name("train")) as arrays:
        offset = int(arrays["offset"][0])
    count = len(lengths)
    crc32 = np.array([zlib.crc32(bytes(n * DIM * 2)) for n in range(int(lengths.max()) + 1)], np.uint32)
    np.savez(
        folder / index_name("train"),
        shard=np.zeros(count, np.int32),
        offset=np.full(count, offset, np.int64),
        n=lengths,
        crc32=crc32[lengths],
    )
    total = int(lengths.sum(dtype=np.int64))
    shard = split.shards[0].model_copy(update={"documents": count, "sentences": total})
    languages = {LANG: LanguageCount(documents=count, sentences=total)}
    write_description(folder, SplitRecord(languages=languages, shards=[ShardRecord(**shard.model_dump())]))


def first_batch(settings: DataSettings, step: int) -> None:
    """What a training does before its first forward pass."""
    batches = TrainingBatches(Mixture.open(settings), settings, seed=0)
    batches.reader.splits[0]._recognised.add(0)  # its documents lie over each other
    next(batches.iterate(step))


def alternate(first: Callable[[], Any], second: Callable[[], Any]) -> Iterator[float]:
    """The best processor time of each of two things, measured in turn, so that both meet the same machine."""
    times = [(best(first, 1, time.process_time), best(second, 1, time.process_time)) for _ in range(REPEATS)]
    return map(min, zip(*times, strict=True))


def best(work: Callable[[], Any], repeats: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """The shortest time that some work took, in seconds."""
    times = []
    for _ in range(repeats):
        began = clock()
        work()
        times.append(clock() - began)
    return min(times)


if __name__ == "__main__":
    sys.exit(main())
