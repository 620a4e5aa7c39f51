"""Tasks from a file: the model continues each source, and what it writes is compared with the reference.

Summaries, continuations and expansions are all of this form. A text ends by the model's own stopping rules. A source
longer than the model's window is read from the last window on. Baselines are the source's first three sentences
("lead-3", strong for news) and its last one.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lexalcm import __version__
from lexalcm.codec.base import Codec
from lexalcm.codec.registry import CODEC_FOLDER, load_codec
from lexalcm.device import choose_device
from lexalcm.errors import CodecError, ConfigError, DataError
from lexalcm.evaluate.metrics.metric import task_metrics
from lexalcm.evaluate.metrics.scored_example import score_examples
from lexalcm.evaluate.predictors.free_running import collect
from lexalcm.evaluate.report.files import check_report_name
from lexalcm.evaluate.report.report import Evaluation, Example
from lexalcm.evaluate.run.assemble import assemble
from lexalcm.evaluate.run.evaluation_run import (
    EvaluationRun,
    Outcome,
    Predictor,
    Processes,
    ScoredUnit,
    SingleProcess,
    run_evaluation,
)
from lexalcm.evaluate.run.examples import TaskExample, read_examples
from lexalcm.evaluate.run.journal import Journal, folder_state
from lexalcm.evaluate.run.model_checks import check_model
from lexalcm.evaluate.run.models import describe_model, finish, model_names, unfinished
from lexalcm.evaluate.settings import EvaluationSettings
from lexalcm.generate.prompts.prompt import Prompt
from lexalcm.generate.text import TextModel, check_end, read_end_of_text
from lexalcm.io.atomic import check_output_file
from lexalcm.io.progress import Progress, silent
from lexalcm.model.placement import to_device
from lexalcm.model.storage.codec_match import check_codec_match
from lexalcm.model.storage.folder import load_model, model_folder, read_config
from lexalcm.registries import METRICS

LEAD = "the first three sentences"
LAST = "the last sentence"
BATCH_SIZE = 32  # examples that are continued at a time
SHOWN = 5  # examples in the report

TaskPredictor = Predictor[Sequence[TaskExample], list[list[str]]]
"""Writes the sentences for each of some examples."""


def evaluate_task(
    models: Sequence[str | Path | None],
    file: Path,
    settings: EvaluationSettings | None = None,
    *,
    out: Sequence[Path] = (),
    processes: Processes | None = None,
    progress: Progress = silent,
) -> Evaluation | None:
    """Evaluate models by their continuations of a file's sources.

    Args:
        models: see `lexalcm.evaluate.run.models.evaluate`; all must be of one codec, which also measures.
        file: the examples, see `read_examples`.
        settings: those of the model, the codec and the resampling count, and the limit.
        out, processes, progress: see `lexalcm.evaluate.run.models.evaluate`.

    Returns:
        The evaluation, on the first process; None on the others.

    Raises:
        UserError: a model or file that is missing or damaged, settings that a task does not have.
        CodecError: models of different codecs, or a language that theirs does not have.
    """
    settings = settings or EvaluationSettings()
    if settings.free or settings.metrics or settings.language_model:
        raise ConfigError("--task has metrics of its own: omit --free, --metrics and --lm")
    processes = processes or SingleProcess()
    for path in out:
        check_report_name(path)
        check_output_file(path)
    if not file.exists():
        raise DataError(f"cannot read {file}: no such file")  # before models are loaded
    folders = [model_folder(model) for model in models]
    first = read_config(folders[0]).codec
    if first is None:
        raise CodecError(f"{folders[0]} does not record its codec: it cannot read or write text")
    for folder in folders:
        check_codec_match(read_config(folder), folder, first, folders[0])
        check_end(folder, read_end_of_text(folder), check_model(folder, settings.generation))
    choose_device(settings.device)
    choice = settings.codec
    codec = load_codec(first, folders[0] / CODEC_FOLDER, name=choice.name, options=choice.run)
    examples, metrics = read_examples(file, settings.limit, codec), task_metrics()
    identity = {
        "lexalcm": __version__,
        "settings": settings.scores_depend_on(),
        "metrics": {name: METRICS.origin(name) for name in metrics},
        "examples": [[example.id, example.lang, example.source, example.reference] for example in examples],
        "models": [[str(folder), folder_state(folder)] for folder in folders],
    }
    journal = Journal(unfinished(out[0]), identity, rank=processes.rank) if out else None
    work = _Work(examples, codec, metrics)
    outcome = run_evaluation(
        _predictors(folders, codec, settings),
        work.trial,
        journal=journal,
        processes=processes,
        progress=progress,
    )
    if outcome is None:
        return None
    evaluation = _report(file, examples, outcome, codec, metrics, settings)
    finish(evaluation, out, journal)
    return evaluation


def _predictors(folders: Sequence[Path], codec: Codec, settings: EvaluationSettings) -> Iterator[TaskPredictor]:
    for name, folder in zip(model_names(folders), folders, strict=True):
        yield _model_predictor(name, folder, codec, settings)  # no name for it here: it shall go with its turn
    yield Predictor(LEAD, "baseline", lambda examples, number: [example.source[:3] for example in examples], {})
    yield Predictor(LAST, "baseline", lambda examples, number: [example.source[-1:] for example in examples], {})


def _model_predictor(name: str, folder: Path, codec: Codec, settings: EvaluationSettings) -> TaskPredictor:
    model = to_device(load_model(folder), settings.device)
    writer = TextModel(folder, model, codec, read_end_of_text(folder))
    options = writer.options(**settings.generation)
    about = describe_model(writer.model, folder, options) | {
        "window": settings.window,
        "reencode": options.reencode,
        "max_sentences": options.max_sentences,
    }

    def write(examples: Sequence[TaskExample], number: int) -> list[list[str]]:
        seeds = np.random.SeedSequence([settings.seed, number]).generate_state(len(examples), np.uint32).tolist()
        prompts = [
            Prompt(tuple(example.source[-settings.window :]), example.lang, example.lang, seed)
            for example, seed in zip(examples, seeds, strict=True)
        ]
        return [[one.text for one in text] for text in collect(writer.write_all(prompts, options))]

    return Predictor(name, "model", write, about)


class _Work:
    """The examples, and how they are scored."""

    def __init__(self, examples: Sequence[TaskExample], codec: Codec, metrics: Sequence[str]) -> None:
        self.examples = examples
        self.codec = codec
        self.metrics = metrics
        count = len(examples)
        self.units = [np.arange(start, min(start + BATCH_SIZE, count)) for start in range(0, count, BATCH_SIZE)]

    @property
    def trial(self) -> EvaluationRun:
        """What there is to do; not kept, so that the codec goes when the report is there."""
        return EvaluationRun(self.units, self._score, metrics=len(self.metrics), bins=1, unit_name="examples")

    def _score(self, predictor: TaskPredictor, unit: int) -> ScoredUnit:
        places = self.units[unit].tolist()
        examples = [self.examples[place] for place in places]
        written = predictor.predict(examples, unit)
        texts = {place: list(text) for place, text in zip(places, written, strict=True) if place < SHOWN}
        return ScoredUnit(score_examples(self.codec, examples, written, self.metrics), texts)


def _report(
    file: Path,
    examples: Sequence[TaskExample],
    outcome: Outcome,
    codec: Codec,
    metrics: Sequence[str],
    settings: EvaluationSettings,
) -> Evaluation:
    about: dict[str, Any] = {"path": str(file), "codec": codec.record().model_dump(mode="json")}
    return assemble(
        outcome.predictors,
        outcome.tallies,
        metrics=metrics,
        documents=np.arange(len(examples)),
        languages=np.array([example.lang for example in examples]),
        targets=np.ones(len(examples), dtype=np.int64),
        position_names=[],
        position_sizes=[],
        resamples=settings.resamples,
        seed=settings.seed,
        dataset=about,
        settings={"mode": "task", "limit": settings.limit},
        notes=[],
        examples=[
            Example(
                example.id,
                example.lang,
                example.source,
                example.reference,
                {one.name: texts[place] for one, texts in zip(outcome.predictors, outcome.texts, strict=True)},
            )
            for place, example in enumerate(examples[:SHOWN])
        ],
    )
