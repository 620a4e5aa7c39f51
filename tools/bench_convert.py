"""How fast `lcm data convert` reads parquet, against the plain pandas way, and how much memory it takes.

    python -m tools.bench_convert                  # 256 MB of SONAR-sized embeddings
    python -m tools.bench_convert --mb 256 2048    # memory at two sizes, speed at the first

The pandas way is what a script does: read the file, stack each row's vectors, cast, write the tar with webdataset's own
writer. It neither checks nor hashes. Both read the same warm files. The normalizer's fit, which the pandas way does not
make either, is timed apart. `times_pandas` is by the clock, `times_pandas_cpu` by processor time, which says more where
other processes want the same cores. The last line is one JSON object.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DIM = 1024
ROWS_AT_ONCE = 500


def write_parquet(path: Path, megabytes: float, seed: int = 0) -> int:
    """Write documents of 5 to 39 sentences in Meta's layout, float32 lists of lists; returns the sentences."""
    rng = np.random.default_rng(seed)
    writer = None
    sentences = 0
    while sentences * DIM * 4 < megabytes * 1e6:
        n = rng.integers(5, 40, ROWS_AT_ONCE)
        total = int(n.sum())
        offsets = pa.array(np.concatenate([[0], np.cumsum(n)]), pa.int32())
        numbers = pa.array(rng.standard_normal(total * DIM, dtype=np.float32))
        vectors = pa.ListArray.from_arrays(pa.array(np.arange(0, total * DIM + 1, DIM), pa.int32()), numbers)
        text = pa.array(
            [f"Sentence {sentences + i} says what the one before it has left unsaid." for i in range(total)]
        )
        table = pa.table(
            {
                "text_sentences": pa.ListArray.from_arrays(offsets, text),
                "text_sentences_sonar_emb": pa.ListArray.from_arrays(offsets, vectors),
            }
        )
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
        sentences += total
    if writer is not None:
        writer.close()
    return sentences


def with_pandas(path: Path, out: Path) -> dict[str, float]:
    """Seconds to convert a file as a script with pandas does, by the clock and of all processors."""
    import pandas as pd
    from webdataset import TarWriter

    start, start_cpu = time.perf_counter(), time.process_time()
    frame = pd.read_parquet(path)
    with TarWriter(str(out)) as tar:
        for number, row in enumerate(frame.itertuples()):
            embeddings = np.stack(row.text_sentences_sonar_emb).astype(np.float16)
            text = {"id": f"{number}", "sentences": list(row.text_sentences)}
            tar.write({"__key__": f"{number:06d}", "emb.npy": embeddings, "json": text})
    return {"converting": time.perf_counter() - start, "converting, cpu": time.process_time() - start_cpu}


def with_lexalcm(path: Path, out: Path) -> dict[str, float]:
    """Seconds of each stage of the conversion, and the peak memory of this process in MB at its end."""
    from lexalcm.data.convert.convert import convert

    seconds: dict[str, float] = {}

    @contextmanager
    def timed(what: str, _unit: str) -> Iterator[Callable[[int, int | None], None]]:
        start, start_cpu = time.perf_counter(), time.process_time()
        yield lambda _done, _total: None
        seconds[what] = time.perf_counter() - start
        seconds[f"{what}, cpu"] = time.process_time() - start_cpu
        seconds[f"{what}, peak MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    start = time.perf_counter()
    convert([path], out, progress=timed)
    return {"all": time.perf_counter() - start, **seconds}


def in_own_process(function: str, path: Path, out: Path) -> Any:
    """What `with_lexalcm` or `with_pandas` says in a process of its own, whose memory nothing else has touched."""
    call = f"{function}(Path(sys.argv[1]), Path(sys.argv[2]))"
    imports = f"import json, sys; from pathlib import Path; from tools.bench_convert import {function}"
    code = f"{imports}; print(json.dumps({call}))"
    ran = subprocess.run([sys.executable, "-c", code, path, out], check=True, capture_output=True, text=True)
    return json.loads(ran.stdout.splitlines()[-1])


def bench_convert(megabytes: list[float], repeats: int = 3) -> dict[str, object]:
    """Speed at the first size, the fastest of some runs each, and memory at every size."""
    memory: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, size in enumerate(megabytes):
            path = folder / "in.parquet"
            sentences = write_parquet(path, size)
            ours, theirs = [], []
            for _ in range(1 if number else repeats):  # in turns, so that a machine that is busy slows both
                ours.append(in_own_process("with_lexalcm", path, folder / "ours"))
                shutil.rmtree(folder / "ours")
                if not number:
                    theirs.append(in_own_process("with_pandas", path, folder / "pandas.tar"))
            if not number:
                gigabytes = sentences * DIM * 4 / 1e9
                best = {name: min(run[name] for run in ours) for name in ours[0]}
                pandas = {name: min(run[name] for run in theirs) for name in theirs[0]}
            memory[f"{size:g} MB"] = {
                what: round(max(run[f"{what}, peak MB"] for run in ours))
                for what in ("converting", "fitting the normalizer")
            }
    return {
        "convert_gb_per_s": round(gigabytes / best["converting"], 3),
        "pandas_gb_per_s": round(gigabytes / pandas["converting"], 3),
        "times_pandas": round(pandas["converting"] / best["converting"], 2),
        "times_pandas_cpu": round(pandas["converting, cpu"] / best["converting, cpu"], 2),
        "normalizer_s": round(best["fitting the normalizer"], 2),
        "peak_memory_mb": memory,
    }


def main() -> None:
    """Print the result as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=float, nargs="+", default=[256.0], help="sizes of the embeddings read, in MB")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each way, of which the fastest counts")
    arguments = parser.parse_args()
    print(json.dumps(bench_convert(arguments.mb, arguments.repeats)))


if __name__ == "__main__":
    main()
