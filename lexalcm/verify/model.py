"""A model folder: complete, consistent, and able to predict.

Loading already checks the weights' names and shapes against the config. What is checked here beyond: that every number
is finite, that the normalizer was fitted, that the codec opens and is the recorded one, that the special concepts are
there, and that a prediction from fixed concepts is finite and comes out the same twice.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table
from safetensors import SafetensorError
from safetensors.torch import load_file

from lexalcm.codec.registry import CODEC_FOLDER, load_codec
from lexalcm.codec.special import SPECIAL_CONCEPTS, SPECIAL_FILE, describe_special, kept_sentences
from lexalcm.config import validate
from lexalcm.errors import ConfigError, MissingExtraError, UserError
from lexalcm.generate.options import GenerationOptions
from lexalcm.generate.predictor import prepare
from lexalcm.generate.teacher_forced import predict_each
from lexalcm.model.create import count_parameters
from lexalcm.model.lcm import LCM
from lexalcm.model.storage.folder import read_model
from lexalcm.verify.checks import Check, passed

CONCEPTS = 8
"""Length of the made-up document that a prediction is tried on."""


@dataclass(frozen=True)
class ModelVerification:
    """What `lcm verify model` found."""

    model: str
    checks: list[Check]
    parameters: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """As plain values, with `ok`."""
        return {"ok": passed(self.checks), **asdict(self)}

    def parameter_table(self) -> Table:
        """Parameters of each part."""
        table = Table("part", box=box.SIMPLE_HEAD, title="Parameters", title_justify="left")
        table.add_column("parameters", justify="right")
        for part, count in self.parameters.items():
            table.add_row(part.replace("_", " "), f"{count:,}")
        table.add_section()
        table.add_row("all", f"{sum(self.parameters.values()):,}", style="bold")
        return table


def verify_model(folder: Path) -> ModelVerification:
    """Check a model folder; if it cannot be loaded, that is the only problem reported."""
    try:
        model = read_model(folder)
    except UserError as error:
        return ModelVerification(str(folder), [Check("files", "problem", str(error))], {})
    parts = count_parameters(model.config)
    weights = _weights(model)
    normalizer = _normalizer(model)
    checks = [
        Check("files", "ok", f"{model.config.architecture} model, concepts of dimension {model.config.dim}"),
        weights,
        normalizer,
        _codec(model, folder),
        _special_concepts(model, folder),
        _generation_options(model),
    ]
    if passed(checks):
        checks.append(_prediction(model))
    return ModelVerification(str(folder), checks, parts)


def _weights(model: LCM) -> Check:
    state = dict(model.named_parameters())
    broken = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if broken:
        shown = ", ".join(broken[:4]) + (f" and {len(broken) - 4} more" if len(broken) > 4 else "")
        return Check(
            "weights", "problem", f"not finite: {shown}", "the training diverged: export an earlier checkpoint"
        )
    types = ", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in state.values()}))
    return Check("weights", "ok", f"{len(state)} tensors, all finite, {types}")


def _normalizer(model: LCM) -> Check:
    normalizer = model.normalizer
    center, scale = normalizer.center, normalizer.scale
    if not (center.isfinite().all() and scale.isfinite().all()):
        return Check("normalizer", "problem", "center or scale not finite", "bootstrap the model again: lcm bootstrap")
    if not (scale > 0).all():
        dead = int((scale <= 0).sum())
        return Check("normalizer", "problem", f"scale not positive in {dead} dimensions", "fit it on more varied text")
    if not (normalizer.clip_min < normalizer.clip_max).all():
        return Check(
            "normalizer", "problem", "clipping bounds in the wrong order", "bootstrap the model again: lcm bootstrap"
        )
    if (center == 0).all() and (scale == 1).all():
        return Check("normalizer", "note", "the identity", "it was not fitted: lcm bootstrap --data fits it")
    clips = ", clips" if normalizer.clip_max.isfinite().any() else ""
    return Check("normalizer", "ok", f"scales {float(scale.min()):.3g} to {float(scale.max()):.3g}{clips}")


def _codec(model: LCM, folder: Path) -> Check:
    record = model.config.codec
    if record is None:
        return Check("codec", "note", "not recorded", "without it, text can be neither encoded nor decoded")
    name = f"{record.name}, fingerprint {record.fingerprint[:12]}"
    try:
        load_codec(record, folder / CODEC_FOLDER)
    except MissingExtraError as error:
        return Check("codec", "note", name, str(error))
    except UserError as error:
        return Check("codec", "problem", name, str(error))
    return Check("codec", "ok", name)


def _special_concepts(model: LCM, folder: Path) -> Check:
    name = "special concepts"
    advice = f"copy {SPECIAL_FILE} from the data set that the model was trained on"
    try:
        concepts = load_file(folder / SPECIAL_FILE)
    except FileNotFoundError:
        return Check(name, "problem" if model.config.codec else "note", f"no {SPECIAL_FILE}", advice)
    except SafetensorError:
        return Check(name, "problem", f"{SPECIAL_FILE} is damaged", advice)
    missing = [key for key in SPECIAL_CONCEPTS if key not in concepts]
    if missing:
        return Check(name, "problem", f"missing: {', '.join(missing)}", advice)
    wrong = [
        key for key, vector in concepts.items() if vector.shape != (model.config.dim,) or not vector.isfinite().all()
    ]
    if wrong:
        return Check(name, "problem", f"wrong shape or not finite: {', '.join(wrong)}", advice)
    return Check(name, "ok", describe_special(kept_sentences(folder)))


def _generation_options(model: LCM) -> Check:
    try:
        validate(GenerationOptions, model.generation_config, source="generation_config.json")
    except ConfigError as error:
        return Check("generation options", "problem", str(error), "fix or remove generation_config.json")
    shown = ", ".join(f"{key} {value}" for key, value in model.generation_config.items())
    return Check("generation options", "ok", shown or "the defaults")


def _prediction(model: LCM) -> Check:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, CONCEPTS, model.config.dim, generator=generator)
    embeddings = model.normalizer.denormalize(noise)
    documents = torch.zeros(1, CONCEPTS, dtype=torch.int64)
    positions = torch.arange(CONCEPTS)[None]
    predictor = prepare(model, validate(GenerationOptions, model.generation_config))
    first, second = (predict_each(predictor, embeddings, documents, positions, 0)[:, 1:] for _ in range(2))
    if not first.isfinite().all():
        return Check("prediction", "problem", "not finite", "the training diverged: export an earlier checkpoint")
    if not torch.equal(first, second):
        return Check(
            "prediction", "problem", "differs between two runs with one seed", "please report it, with this output"
        )
    return Check("prediction", "ok", f"finite and reproducible ({CONCEPTS - 1} concepts)")
