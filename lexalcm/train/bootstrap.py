"""A new model folder: seeded weights or a published checkpoint's, the data set's codec, and where it came from.

The folder is complete in itself: generation needs neither the data set nor the command that made it. `bootstrap.json`
keeps what was asked for, so that asking for the same again is recognised and costs nothing.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from typing_extensions import Self

from lexalcm import __version__
from lexalcm.config import Settings, load_settings
from lexalcm.data.format.dataset import Dataset
from lexalcm.data.format.manifest import MANIFEST_FILE
from lexalcm.data.normalizer.fit import NORMALIZER_FILE, read_stats
from lexalcm.errors import DataError, UserError
from lexalcm.io.atomic import atomic_folder, check_output
from lexalcm.json_text import parse_json
from lexalcm.model import LCM, ModelConfig, create_model, preset
from lexalcm.model.importers.fairseq2 import import_fairseq2
from lexalcm.model.presets import generation_options
from lexalcm.model.storage.codec_match import check_codec_match
from lexalcm.model.storage.folder import load_model
from lexalcm.model.storage.locate import CONFIG_FILE
from lexalcm.model.storage.sidecar_files import copy_sidecar_files
from lexalcm.train.checkpoint.export import export_model
from lexalcm.train.checkpoint.format import list_checkpoints, read_train_state
from lexalcm.train.run.folder import saved_run
from lexalcm.train.settings import RunConfig

REQUEST_FILE = "bootstrap.json"
DEFAULT_OUT = "models/base"


class BootstrapRequest(Settings):
    """What decides the content of a new model folder."""

    preset: str
    seed: int
    overrides: tuple[str, ...]
    data: str
    data_fingerprint: str  # sha256 of the data set's manifest and of the normalizer
    version: str = __version__

    @classmethod
    def of(
        cls,
        preset_name: str,
        dataset: Dataset,
        seed: int,
        overrides: Iterable[str],
        normalizer: Path | None = None,
    ) -> Self:
        """The request for `dataset` as it is now; `normalizer`: a file to use instead of the data set's."""
        digest = hashlib.sha256()
        for file in (dataset.path / MANIFEST_FILE, normalizer or dataset.path / NORMALIZER_FILE):
            try:
                digest.update(file.read_bytes())
            except OSError as error:
                raise DataError(f"cannot read {file}: {error.strerror}") from error
        return cls(
            preset=preset_name,
            seed=seed,
            overrides=tuple(overrides),
            data=dataset.address,
            data_fingerprint=digest.hexdigest(),
        )

    def is_fulfilled(self, folder: Path) -> bool:
        """Whether `folder` is the model that this request gives."""
        try:
            return parse_json((folder / REQUEST_FILE).read_bytes()) == self.model_dump(mode="json")
        except (OSError, ValueError):
            return False


def bootstrap_model(
    request: BootstrapRequest,
    dataset: Dataset,
    out: Path,
    *,
    normalizer: Path | None = None,
    overwrite: bool = False,
) -> LCM:
    """Write a model folder with fresh weights for the concepts of `dataset`, and return the model.

    Args:
        request: what decides the content.
        dataset: gives dimension, codec and normalizer.
        out: the folder to make.
        normalizer: a file of `lcm data normalize`, e.g. of a mixture, to use instead of the data set's.
        overwrite: replace a model that is there.

    Raises:
        ConfigError: unknown preset or setting, or sizes that do not fit together.
        DataError: no normalizer, or one of another dimension.
        UserError: `out` exists and `overwrite` is false, or it cannot be written.
    """
    check_output(out, overwrite=overwrite, marker=CONFIG_FILE)
    base = preset(request.preset, dataset.dim).model_dump() | {"codec": dataset.manifest.codec.model_dump()}
    config = load_settings(ModelConfig, overrides=request.overrides, base=base, prefix="model")
    model = create_model(config, request.seed)
    stats = dataset.normalizer() if normalizer is None else read_stats(normalizer)
    if len(stats["center"]) != dataset.dim:
        raise DataError(f"{normalizer} is for {len(stats['center'])} dimensions, {dataset.address} has {dataset.dim}")
    model.normalizer.set_statistics(stats)
    model.generation_config = generation_options(request.preset, dataset.manifest.codec.name)
    with _new_model_folder(model, dataset, out, overwrite) as folder:
        (folder / REQUEST_FILE).write_text(request.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return model


def bootstrap_from_fairseq2(
    file: Path, config: Path | None, dataset: Dataset | None, out: Path, *, overwrite: bool = False
) -> LCM:
    """Write a model folder with the weights of a published checkpoint, and return the model.

    Args:
        file: the checkpoint, see `import_fairseq2`; it brings its normalizer.
        config: its config, or none.
        dataset: a data set of the embeddings that it was trained on, whose codec is noted down; or none.
        out: the folder to make.
        overwrite: replace a model that is there.

    Raises:
        UserError: the checkpoint cannot be read or has unknown or missing parameters; `out` cannot be written.
        CodecError: the data set's concepts are of another dimension.
    """
    check_output(out, overwrite=overwrite, marker=CONFIG_FILE)
    model = import_fairseq2(file, config)
    if dataset is not None:
        check_codec_match(model.config, file, dataset.manifest.codec, dataset.address)
        model.config = model.config.model_copy(update={"codec": dataset.manifest.codec})
    with _new_model_folder(model, dataset, out, overwrite):
        return model


def bootstrap_from_checkpoint(path: Path, out: Path, *, overwrite: bool = False) -> LCM:
    """Write a model folder with the weights of a run's checkpoint, or their average where it has one.

    Args:
        path: the checkpoint, or the run's folder for its newest.
        out: the folder to make.
        overwrite: replace a model that is there.

    Raises:
        UserError: it is neither; the run has no checkpoint; `out` cannot be written.
        TrainingError: the checkpoint is damaged.
    """
    check_output(out, overwrite=overwrite, marker=CONFIG_FILE)
    run, checkpoint = saved_run(path, "--from-checkpoint")
    if checkpoint is None:
        checkpoint = next(iter(list_checkpoints(run.checkpoints)), None)
    if checkpoint is None:
        raise UserError(f"{run.path} has no checkpoint yet")
    read_train_state(checkpoint)
    config = load_settings(RunConfig, run.config)
    dataset = Dataset.open(config.data.all_sets[0].path)
    export_model(checkpoint, config.model, dataset.path, out)
    return load_model(out)


@contextmanager
def _new_model_folder(model: LCM, dataset: Dataset | None, out: Path, overwrite: bool) -> Iterator[Path]:
    with atomic_folder(out, overwrite=overwrite, marker=CONFIG_FILE) as folder:
        model.save_pretrained(folder)
        if dataset is not None:
            copy_sidecar_files(dataset.path, folder)
        yield folder
