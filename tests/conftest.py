"""What all tests share. They run on the CPU, also where there is a GPU; with `--gpu`, those that need one run on it."""

import os
import signal
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from lexalcm.codec.base import CodecRecord
from lexalcm.data.format.dataset import Dataset
from lexalcm.data.format.manifest import Manifest, write_manifest
from lexalcm.data.format.shards import ShardWriter
from lexalcm.data.normalizer.fit import NormalizerSettings, fit_on_documents, save_normalizer

MakeDataset = Callable[..., Dataset]

# A shell without job control starts background jobs deaf to Ctrl-C, and so would be every process that a test starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--gpu", action="store_true", help="run the tests that need a GPU, and no others")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: needs a GPU; runs with --gpu")
    if not config.getoption("--gpu"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what is expected are a CPU's numbers, and its choices


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--gpu"):
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU, and --gpu"))
        return
    others = [item for item in items if not item.get_closest_marker("gpu")]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item.get_closest_marker("gpu")]


@pytest.fixture(scope="session")
def make_dataset(tmp_path_factory: pytest.TempPathFactory) -> MakeDataset:
    """Writes a real data set, in a new folder, around given numbers: no text is embedded, no codec is fitted."""

    def make(
        splits: Mapping[str, Sequence[tuple[str, np.ndarray]]],
        *,
        normalizer: Mapping[str, np.ndarray] | None = None,
        fingerprint: str = "0" * 64,
        shard_size: int = 2**20,
    ) -> Dataset:
        """`splits`: the documents of each split as (language, float [n, dim]); `normalizer`: fitted if not given."""
        folder = tmp_path_factory.mktemp("dataset")
        records = {}
        for split, documents in splits.items():
            writer = ShardWriter(folder, split, "float32", shard_size)
            for number, (lang, embeddings) in enumerate(documents):
                sentences = [f"Sentence {place} of {split} {number}." for place in range(len(embeddings))]
                document = {
                    "id": f"{split}-{number}",
                    "lang": lang,
                    "title": "",
                    "sentences": sentences,
                    "metadata": {},
                }
                writer.add(document, embeddings)
            records[split] = writer.close()
        dim = next(embeddings.shape[1] for documents in splits.values() for _, embeddings in documents)
        codec = CodecRecord(name="lsa", dim=dim, fingerprint=fingerprint)
        settings = NormalizerSettings()
        write_manifest(folder, Manifest(codec=codec, dtype="float32", normalizer=settings, splits=records))
        if normalizer is None:
            normalizer = fit_on_documents(Dataset.open(folder).split("train"), settings)
        save_normalizer(folder, {key: np.asarray(value, dtype=np.float32) for key, value in normalizer.items()})
        return Dataset.open(folder)

    return make
