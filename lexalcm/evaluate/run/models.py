"""Trained models as predictors: found, checked against the data set, loaded one at a time; and the report of them."""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from lexalcm import __version__
from lexalcm.data.format.dataset import Dataset
from lexalcm.data.normalizer.sentence_concepts import sentence_concepts
from lexalcm.device import choose_device
from lexalcm.evaluate.metrics.scored_batch import BatchPrediction, Tools
from lexalcm.evaluate.predictors.baselines import baselines
from lexalcm.evaluate.predictors.free_running import continue_batch, without_stops
from lexalcm.evaluate.predictors.predictions import predict_batch
from lexalcm.evaluate.report.files import check_report_name, write_report
from lexalcm.evaluate.report.report import Evaluation
from lexalcm.evaluate.run.evaluation import DatasetPredictor, evaluate_predictors, open_tools
from lexalcm.evaluate.run.evaluation_run import Predictor, Processes, SingleProcess
from lexalcm.evaluate.run.journal import Journal, folder_state
from lexalcm.evaluate.run.model_checks import check_model
from lexalcm.evaluate.settings import EvaluationSettings
from lexalcm.generate.options import GenerationOptions, SamplingOptions
from lexalcm.generate.predictor import prepare
from lexalcm.generate.text import TextModel
from lexalcm.io.atomic import check_output_file
from lexalcm.io.progress import Progress, silent
from lexalcm.model.lcm import LCM
from lexalcm.model.placement import to_device
from lexalcm.model.storage.codec_match import check_codec_match
from lexalcm.model.storage.folder import load_model, model_folder, read_config
from lexalcm.registries import METRICS

UNFINISHED = ".unfinished"
"""What the folder beside a report is called until the report is there."""


def evaluate(
    models: Sequence[str | Path | None],
    data: str | Path,
    settings: EvaluationSettings | None = None,
    *,
    out: Sequence[Path] = (),
    processes: Processes | None = None,
    progress: Progress = silent,
) -> Evaluation | None:
    """Evaluate models and the baselines on a split of a data set.

    Args:
        models: model or run folders, or hub ids; None: the newest trained model.
        data: the data set, a folder or an address.
        settings: what is measured, and how; default: what `lcm evaluate` does.
        out: files for the report, `.json`, `.md` or `.html`. Results are kept beside the first of them until the
            evaluation is finished, so that an interrupted one can be resumed.
        processes: those that share the work; default: this one does it all.
        progress: opens a report of each predictor's documents.

    Returns:
        The evaluation, on the first process; None on the others.

    Raises:
        UserError: a model or data set that is missing or damaged, options that one of the models cannot have, no such
            device, an output that cannot be written; all before the first model is loaded.
        CodecError: a model made for the embeddings of another codec than the data set's.
        LexaError: a model predicts what is not a number.
    """
    settings = settings or EvaluationSettings()
    processes = processes or SingleProcess()
    for file in out:
        check_report_name(file)
        check_output_file(file)
    dataset = Dataset.open(data)
    dataset.split(settings.split)
    folders = [model_folder(model) for model in models]
    for folder in folders:
        check_codec_match(read_config(folder), folder, dataset.manifest.codec, dataset.address)
        check_model(folder, settings.generation)
    choose_device(settings.device)
    identity = {
        "lexalcm": __version__,
        "settings": settings.scores_depend_on(),
        "metrics": {name: METRICS.origin(name) for name in settings.chosen_metrics},
        "data": dataset.manifest.model_dump(mode="json"),
        "models": [[str(folder), folder_state(folder)] for folder in folders],
    }
    others = baselines(sentence_concepts(dataset, "train"), settings)
    tools = open_tools(dataset, settings)
    journal = Journal(unfinished(out[0]), identity, rank=processes.rank) if out else None
    evaluation = evaluate_predictors(
        chain(_predictors(folders, settings, tools), others),
        dataset,
        settings,
        tools=tools,
        journal=journal,
        processes=processes,
        progress=progress,
    )
    if evaluation is not None:
        finish(evaluation, out, journal)
    return evaluation


def unfinished(file: Path) -> Path:
    """The folder beside a report that keeps what is done of it."""
    return file.with_name(file.name + UNFINISHED)


def finish(evaluation: Evaluation, out: Sequence[Path], journal: Journal | None) -> None:
    """Write the report's files, and forget what was kept until then."""
    for file in out:
        write_report(evaluation, file)
    if journal is not None:
        journal.remove()


def model_name(folder: Path) -> str:
    """The name of a model in a report: its folder, or its run's."""
    return str(folder.parent if folder.name == "model" else folder)


def model_names(folders: Sequence[Path]) -> list[str]:
    """The names of models in a report; a model that is given again has a number."""
    names = [model_name(folder) for folder in folders]
    before = [names[:place].count(name) for place, name in enumerate(names)]
    return [f"{name} ({again + 1})" if again else name for name, again in zip(names, before, strict=True)]


def describe_model(model: LCM, folder: Path, options: GenerationOptions) -> dict[str, Any]:
    """A model's row settings in a report."""
    diffuses = model.config.diffusion is not None
    return {
        "path": str(folder),
        "architecture": model.config.architecture,
        "preset": model.config.preset,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "device": str(model.device),
        "generation": options.model_dump(mode="json", include=set(SamplingOptions.model_fields)) if diffuses else None,
    }


def _predictors(folders: Sequence[Path], settings: EvaluationSettings, tools: Tools) -> Iterator[DatasetPredictor]:
    for name, folder in zip(model_names(folders), folders, strict=True):
        yield _model_predictor(name, folder, settings, tools)  # no name for it here: it shall go with its turn


def _model_predictor(name: str, folder: Path, settings: EvaluationSettings, tools: Tools) -> DatasetPredictor:
    model = to_device(load_model(folder), settings.device)
    options = GenerationOptions.for_model(model.generation_config, **settings.generation)
    about, seed, window = describe_model(model, folder, options), settings.seed, settings.window
    if settings.free is None:
        predictor = prepare(model, options)
        return Predictor(
            name,
            "model",
            lambda batch, number: BatchPrediction(
                predict_batch(predictor, batch, window=window, seed=seed, number=number)
            ),
            about | {"window": window},
        )
    if tools.codec is None:
        raise ValueError("documents are continued without a codec")
    writer, unending = TextModel(folder, model, tools.codec, None), without_stops(options, settings.free)
    return Predictor(
        name,
        "model",
        lambda batch, number: continue_batch(writer, unending, batch, seed=seed, number=number, window=window),
        about | {"window": window, "reencode": options.reencode},
    )
