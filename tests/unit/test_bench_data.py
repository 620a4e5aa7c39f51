from pathlib import Path

import pytest

from tools import bench_data


def test_the_benchmark_measures_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_data, "REPEATS", 1)
    loader = bench_data.bench_loader(tmp_path, 40)
    assert loader["concepts"] > 0
    assert loader["loader_to_numpy_copy"] == pytest.approx(
        loader["loader_gb_per_s"] / loader["numpy_copy_gb_per_s"], rel=1e-6
    )
    path = tmp_path / "plan"
    path.mkdir()
    bench_data.write_index_of(path, bench_data.document_lengths(20_000))
    plan = bench_data.measure_plan(str(path))
    assert plan["documents"] == 20_000
    assert plan["index_bytes_per_document"] <= 16
    assert plan["fill"] >= 0.97
