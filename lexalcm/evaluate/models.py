"""Trained models as predictors: found, checked against the data set, loaded one at a time."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from lexalcm.data.dataset import Dataset
from lexalcm.data.progress import Progress, silent
from lexalcm.errors import UserError
from lexalcm.evaluate.evaluation import Predictor, baselines, evaluate_predictors
from lexalcm.evaluate.predictions import predict_batch
from lexalcm.evaluate.report import Evaluation
from lexalcm.generate.options import GenerationOptions
from lexalcm.generate.predictor import prepare
from lexalcm.model.codec_match import check_codec
from lexalcm.model.folder import load_model, read_config
from lexalcm.model.locate import find_model

SAMPLER_OPTIONS = (
    "sampler",
    "steps",
    "guidance_scale",
    "guidance_rescale",
    "initial_noise_scale",
    "epsilon_scaling",
    "eta",
    "clip_noisy",
    "clip_x0",
    "dynamic_threshold",
)
"""The generation options that one prediction depends on; stopping rules play no part."""


def evaluate(
    models: Sequence[str | Path | None],
    data: str | Path,
    *,
    generation: dict[str, Any] | None = None,
    window: int = 128,
    device: str = "auto",
    split: str = "validation",
    batch: int = 512,
    corpus_order: bool = False,
    limit: int | None = None,
    resamples: int = 2000,
    seed: int = 0,
    progress: Progress = silent,
) -> Evaluation:
    """Evaluate models and the baselines on a split of a data set.

    Args:
        models: model or run folders; None stands for the newest trained model.
        data: the data set folder.
        generation: changes to each model's own generation options; None values change nothing.
        window: longest stretch of a document that a model reads at once, in concepts.
        device: `"auto"` (a GPU if there is one), `"cpu"`, `"cuda"`, `"cuda:1"`, ...
        split, batch, corpus_order, limit, resamples, progress: see `evaluate_predictors`.
        seed: of the models' noise and of the bootstrap.

    Raises:
        UserError: a model or data set that is missing or damaged, unknown options, no such device.
        CodecError: a model made for the embeddings of another codec than the data set's.
        LexaError: a model predicts what is not a number.
    """
    dataset = Dataset.open(data)
    dataset.split(split)
    folders = [find_model(model) for model in models]
    for folder in folders:
        check_codec(read_config(folder), folder, dataset.manifest.codec, dataset.address)
    place = choose_device(device)
    loaded = (_model_predictor(folder, generation or {}, window=window, device=place, seed=seed) for folder in folders)
    return evaluate_predictors(
        chain(loaded, baselines(dataset.split("train"))),
        dataset,
        split=split,
        batch=batch,
        corpus_order=corpus_order,
        limit=limit,
        resamples=resamples,
        seed=seed,
        progress=progress,
    )


def choose_device(name: str) -> torch.device:
    """A device by name; `"auto"` is the first GPU, or the CPU where there is none.

    Raises:
        UserError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch without CUDA
        raise UserError(f"no device {name} here: try auto or cpu") from error
    return torch.device(name)


def _model_predictor(
    folder: Path, generation: dict[str, Any], *, window: int, device: torch.device, seed: int
) -> Predictor:
    model = load_model(folder).to(device)
    options = GenerationOptions.for_model(model.generation_config, **generation)
    predictor = prepare(model, options)
    diffuses = model.config.diffusion is not None
    settings = {
        "path": str(folder),
        "architecture": model.config.architecture,
        "preset": model.config.preset,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "window": window,
        "device": str(device),
        "generation": options.model_dump(mode="json", include=set(SAMPLER_OPTIONS)) if diffuses else None,
    }
    return Predictor(
        name=str(folder.parent if folder.name == "model" else folder),
        kind="model",
        predict=lambda batch, number: predict_batch(predictor, batch, window=window, seed=seed, number=number),
        settings=settings,
    )
