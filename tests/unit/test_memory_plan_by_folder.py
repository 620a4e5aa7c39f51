"""A model folder's plan of memory is its preset's, whatever its config notes down beside the sizes."""

import importlib
import json
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sonar_reference import hf_codec

import lexalcm
from lexalcm.codec.base import CodecRecord
from lexalcm.codec.lsa.codec import LsaCodec
from lexalcm.config import Settings, load_settings
from lexalcm.data.format.dataset import Dataset
from lexalcm.model.presets import PUBLISHED_DIM, preset
from lexalcm.model.storage.folder import read_config
from lexalcm.train.bootstrap import BootstrapRequest, bootstrap_model
from lexalcm.train.memory.choice import plan_run_memory
from lexalcm.train.memory.plan import layouts, plan_memory
from lexalcm.train.settings import RunConfig

SENTENCES = [(f"The {one} sees the {other}.") for one in ("cat", "dog", "river") for other in ("train", "song", "moon")]
OBJECTIVES = {
    "as the preset's": [],
    "v": ["model.diffusion.prediction=v", "model.diffusion.schedule=quadratic"],
    "epsilon": ["model.diffusion.prediction=epsilon", "model.diffusion.zero_terminal_snr=false"],
    "weighted": ["model.diffusion.loss_weighting=clamped-snr", "model.diffusion.condition_dropout=0"],
}
EXAMPLES: dict[str, dict[str, Any]] = {
    "CodecRecord": {"name": "lsa", "dim": 8, "fingerprint": "0", "options": {"languages": ["eng_Latn"], "dim": 8}},
    "SetSettings": {"path": "data/sample"},
    "ShardRecord": {"file": "0.bin", "documents": 1, "sentences": 2, "bytes": 3, "sha256": "0"},
    "LanguageCount": {"documents": 1, "sentences": 2},
    "Unit": {"split": "train", "number": 0, "first": 0, "last": 1},
    "Division": {"share": 0.1},
    "LanguageModelSettings": {"name": "gpt2"},
    "ModelConfig": {
        **{"architecture": "two-tower", "dim": 8, "width": 16, "num_heads": 2, "ffn_dim": 24, "num_layers": 1},
        **{"context_layers": 1, "codec": {"name": "lsa", "dim": 8, "fingerprint": "0", "options": {"dim": [8]}}},
    },
    "FileRecord": {"bytes": 1, "sha256": "0"},
    "Fingerprints": {"weights": "0", "dataset": "0"},
    "BootstrapRequest": {
        **{"preset": "base-tiny", "seed": 0, "overrides": ["model.width=8"], "data": "data/sample"},
        "data_fingerprint": "0",
    },
}
"""What a class of settings takes that has no defaults."""
EXAMPLES["SplitRecord"] = {"languages": {"eng": EXAMPLES["LanguageCount"]}, "shards": [EXAMPLES["ShardRecord"]]}
EXAMPLES["Manifest"] = {
    **{"codec": EXAMPLES["CodecRecord"], "dtype": "float16", "normalizer": {}},
    "splits": {"train": EXAMPLES["SplitRecord"]},
}
EXAMPLES["WorkUnits"] = {"parts": [1, 2], "dropped": 0, "division": EXAMPLES["Division"]}
EXAMPLES["StateFile"] = {"progress": {}, "files": {"weights": EXAMPLES["FileRecord"]}}


def records() -> dict[str, CodecRecord]:
    """What data sets of both codecs note down, for concepts of as many numbers as the presets are planned with."""
    lsa = LsaCodec.create([("eng_Latn", SENTENCES)], dim=4)
    made = {"lsa": lsa.record(), "sonar": hf_codec().record()}
    return {name: record.model_copy(update={"dim": PUBLISHED_DIM}) for name, record in made.items()}


@pytest.fixture(scope="module", params=["lsa", "sonar"])
def dataset(request: pytest.FixtureRequest, make_dataset: Callable[..., Dataset]) -> Dataset:
    numbers = np.random.default_rng(0).normal(size=(8, PUBLISHED_DIM))
    made = make_dataset({"train": [("eng_Latn", numbers)]})
    record = records()[request.param]
    assert record.options
    file = made.path / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"codec": record.model_dump(mode="json")}))
    return Dataset.open(made.path)


@pytest.mark.parametrize("name", ["base-tiny", "one-tower-tiny", "two-tower-tiny"])
def test_the_plan_by_folder_is_the_plan_by_preset(dataset: Dataset, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    bootstrap_model(BootstrapRequest.of(name, dataset, 0, ()), dataset, folder)
    by_folder, by_preset = (load_settings(RunConfig, None, [f"model={model}"]) for model in (folder, name))
    assert read_config(folder).codec == dataset.manifest.codec
    for gpus, memory in ((1, "12GB"), (8, "80GB"), (2, None)):
        assert plan_run_memory(by_folder, gpus, memory) == plan_run_memory(by_preset, gpus, memory)
    of_every_engine = [
        plan_memory(by_folder, model, processes=2, precision=precision, engines=tuple(layouts()))
        for precision in ("bf16", "fp32")
        for model in (read_config(folder), preset(name, PUBLISHED_DIM))
    ]
    assert of_every_engine[0] == of_every_engine[1] != of_every_engine[2] == of_every_engine[3]
    assert {one.engine for one in of_every_engine[0].estimates} == set(layouts())


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", ["one-tower-tiny", "two-tower-tiny"])
def test_the_plan_of_another_objective(dataset: Dataset, tmp_path: Path, name: str, objective: str) -> None:
    folder = tmp_path / "model"
    bootstrap_model(BootstrapRequest.of(name, dataset, 0, OBJECTIVES[objective]), dataset, folder)
    config = load_settings(RunConfig, None, [f"model={folder}"])
    without = read_config(folder).model_copy(update={"codec": None, "preset": None})
    planned = plan_memory(config, without, processes=1, precision="bf16", memory=12 * 2**30)
    assert plan_run_memory(config, 1, "12GB") == planned
    assert planned.best is not None


def classes(of: type[Settings] = Settings) -> Iterator[type[Settings]]:
    """Every class of settings."""
    if of is Settings:
        for module in pkgutil.walk_packages(lexalcm.__path__, "lexalcm."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    for inner in of.__subclasses__():
        if inner.__module__.startswith("lexalcm."):
            yield inner
        yield from classes(inner)


def test_settings_have_a_hash_that_equal_ones_share() -> None:
    """Also those that hold lists and dictionaries, which have none themselves."""
    found = list(classes())
    assert {RunConfig, CodecRecord} < set(found)
    assert EXAMPLES.keys() <= {one.__name__ for one in found}
    for one in found:
        example = EXAMPLES.get(one.__name__, {})
        first, second = one.model_validate(example), one.model_validate(json.loads(json.dumps(example)))
        assert first is not second
        assert first == second
        assert hash(first) == hash(second), one
        assert len({first, second}) == 1


def test_other_settings_have_another_hash() -> None:
    some, other = (CodecRecord(name="lsa", dim=8, fingerprint="0", options={"dim": dim}) for dim in (8, 9))
    assert some != other
    assert hash(some) != hash(other)
    assert hash(RunConfig()) != hash(load_settings(RunConfig, None, ["train.lr=0.5"]))
