"""Who finds the sentences, by name: each splits paragraphs as `segment.Segmenter` says.

sentencex   rules, offline, the default
sat         wtpsplit's SaT, a model of 85 languages that needs no punctuation; the published pipeline's choice
spacy       spaCy: rules, or the parser of one of its pipelines
newline     a line is a sentence: for text that was split before
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from lexalcm.config import PositiveInt, Settings, validate
from lexalcm.device import choose_device
from lexalcm.errors import UserError, import_extra
from lexalcm.text.languages import iso_code, language_name
from lexalcm.text.segment import Segmenter, SentencexSegmenter

SegmenterName = Literal["sentencex", "sat", "spacy", "newline"]

SAT_TOKENIZER = "facebookAI/xlm-roberta-base"
SAT_HUB = "segment-any-text"
_SPACY_SPLITS = {"parser", "senter", "sentencizer"}
_SPACY_UNNEEDED = ("ner", "tagger", "morphologizer", "attribute_ruler", "lemmatizer")


class NoOptions(Settings):
    """Of a segmenter that has none."""


class SatOptions(Settings):
    """Which SaT, and how it is run."""

    model: str = "sat-3l"  # a name at https://huggingface.co/segment-any-text, or a folder with its files
    tokenizer: str = SAT_TOKENIZER  # likewise, of Transformers
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = (
        None  # of a sentence end; None: 0.25 for -sm models, else 0.02
    )
    device: str | None = None  # as torch names it; None: a GPU if there is one
    onnx: bool = False  # by ONNX Runtime instead of torch
    batch: PositiveInt = 32  # windows of 512 tokens

    @property
    def chosen_threshold(self) -> float:
        """Probability above which a sentence ends: 0.02 is the published pipeline's for plain models."""
        return self.threshold or (0.25 if "-sm" in Path(self.model).name else 0.02)


class SpacyOptions(Settings):
    """Which pipeline."""

    model: str | None = None  # a pipeline's package or folder, for all languages; None: each language's rules


class NewlineSegmenter:
    """Every line is a sentence."""

    def split(self, paragraphs: Sequence[str], lang: str) -> list[list[str]]:
        """Leave the paragraphs as they are."""
        return [[paragraph] for paragraph in paragraphs]


class SatSegmenter:
    """Segment any Text (Frohmann et al. 2024): the probability of a sentence end behind every character."""

    def __init__(self, options: SatOptions) -> None:
        """Load the model, in half precision on a GPU.

        Raises:
            UserError: wtpsplit, ONNX Runtime or the model's files are missing, or the device cannot be used.
        """
        wtpsplit = import_extra("wtpsplit", "sat", "--segmenter sat")
        self.options = options
        device = choose_device(options.device, "--segmenter-option device=")
        providers = (
            ["CPUExecutionProvider"] if device.type == "cpu" else ["CUDAExecutionProvider", "CPUExecutionProvider"]
        )
        if options.onnx:
            import_extra("onnxruntime", "sat-onnx", "--segmenter-option onnx=true")
        try:
            self._model: Any = wtpsplit.SaT(
                options.model,
                tokenizer_name_or_path=options.tokenizer,
                ort_providers=providers if options.onnx else None,
            )
        except (OSError, ValueError) as error:
            wanted = "config.json and " + ("model_optimized.onnx" if options.onnx else "model.safetensors")
            raise UserError(
                f"cannot load SaT {options.model} ({str(error).splitlines()[0][:120]}): download {wanted} of "
                f"https://huggingface.co/{SAT_HUB}/{Path(options.model).name} and the tokenizer of "
                f"https://huggingface.co/{SAT_TOKENIZER} into folders, and name them with "
                "--segmenter-option model=FOLDER --segmenter-option tokenizer=FOLDER"
            ) from error
        if not options.onnx:
            self._model.to(device)
            if device.type == "cuda":
                self._model.half()

    def split(self, paragraphs: Sequence[str], lang: str) -> list[list[str]]:
        """Split where a sentence ends with more than the threshold's probability; the language makes no difference."""
        found = self._model.split(
            list(paragraphs), threshold=self.options.chosen_threshold, batch_size=self.options.batch
        )
        return [list(pieces) for pieces in found]


class SpacySegmenter:
    """A spaCy pipeline, or the rules of its `sentencizer` on each language's tokens."""

    def __init__(self, options: SpacyOptions) -> None:
        """Load the pipeline, if one is named.

        Raises:
            UserError: spaCy or the pipeline is missing.
        """
        self._spacy: Any = import_extra("spacy", "spacy", "--segmenter spacy")
        self._named = None if options.model is None else self._load(options.model)
        self._rules: dict[str, Any] = {}

    def split(self, paragraphs: Sequence[str], lang: str) -> list[list[str]]:
        """Split where a sentence starts; what has no letters is one sentence.

        Raises:
            UserError: a language whose words spaCy only tells apart with another package.
        """
        pipeline = self._named or self._rules.get(lang)
        if pipeline is None:
            pipeline = self._rules[lang] = self._blank(lang)
        return [[sentence.text_with_ws for sentence in doc.sents] for doc in pipeline.pipe(list(paragraphs))]

    def _load(self, name: str) -> Any:
        try:
            pipeline = self._spacy.load(name, exclude=list(_SPACY_UNNEEDED))
        except OSError as error:
            raise UserError(
                f"no spaCy pipeline {name}: python -m spacy download {name}, or name the folder of one"
            ) from error
        return _that_splits(pipeline)

    def _blank(self, lang: str) -> Any:
        try:
            return _that_splits(self._spacy.blank(iso_code(lang)))
        except ImportError as error:
            if "E048" not in str(error):  # it has the language, but not the package that tells its words apart
                reason = str(error).splitlines()[0].rstrip(".:")
                raise UserError(
                    f"spaCy cannot read {language_name(lang)} yet: {reason}; install it, or take another --segmenter"
                ) from error
        return _that_splits(self._spacy.blank("xx"))  # of any language


def _that_splits(pipeline: Any) -> Any:
    """The pipeline with a part that finds sentences, and without a limit of characters."""
    if not _SPACY_SPLITS & set(pipeline.pipe_names):
        pipeline.add_pipe("sentencizer")
    pipeline.max_length = sys.maxsize
    return pipeline


_SEGMENTERS: dict[str, tuple[type[Settings], Callable[[Any], Segmenter]]] = {
    "sentencex": (NoOptions, lambda _options: SentencexSegmenter()),
    "sat": (SatOptions, SatSegmenter),
    "spacy": (SpacyOptions, SpacySegmenter),
    "newline": (NoOptions, lambda _options: NewlineSegmenter()),
}


def make_segmenter(name: SegmenterName, options: Mapping[str, Any]) -> Segmenter:
    """The segmenter of a name; a model is loaded once in a process.

    Args:
        name: which.
        options: its own, see the settings above.

    Raises:
        ConfigError: an unknown option or a value of the wrong type.
        UserError: what it needs is not installed or cannot be loaded.
    """
    return _load(name, check_segmenter(name, options).model_dump_json())


def check_segmenter(name: SegmenterName, options: Mapping[str, Any]) -> Settings:
    """The settings of a segmenter, without loading anything: a machine that only hands out work does not need it.

    Raises:
        ConfigError: an unknown option or a value of the wrong type.
    """
    return validate(_SEGMENTERS[name][0], dict(options), prefix="segmenter_options")


@lru_cache(maxsize=1)
def _load(name: str, options: str) -> Segmenter:
    kind, make = _SEGMENTERS[name]
    return make(kind.model_validate(json.loads(options)))
