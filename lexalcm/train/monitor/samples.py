"""What the model writes while it trains: a few validation documents, continued after their first sentences.

The weights, or their moving average where one is kept, are copied into a model of its own on the main process's CPU:
it generates under any engine, and takes nothing from a GPU that is full. The price is the time that this takes (the
model is read from its folder each time, every weight gathered once) and memory for the model twice while it is read.

Generation draws its noise from generators of its own, always the same ones, so that neither the training's numbers
change nor the samples of two steps differ by chance.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from lexalcm.codec.base import Codec
from lexalcm.codec.options import CodecOptions
from lexalcm.codec.registry import CODEC_FOLDER, load_codec
from lexalcm.codec.special import read_special
from lexalcm.data.batches.mixture import Mixture
from lexalcm.data.batches.special_concepts import special_vectors
from lexalcm.data.format.dataset import Dataset, Split
from lexalcm.distributed.world import World
from lexalcm.errors import LexaError
from lexalcm.model.lcm import LCM
from lexalcm.model.storage.folder import load_model, model_folder
from lexalcm.registries import CODECS
from lexalcm.train.checkpoint.format import TrainState
from lexalcm.train.engines.protocol import Engine
from lexalcm.train.monitor.run_monitor import Monitor
from lexalcm.train.settings import RunConfig

SPLIT = "validation"
SEED = 0
CANDIDATES = 50
"""Documents among which to find some with text, where those first chosen have none."""

logger = logging.getLogger(__name__)


class SamplePrompt(NamedTuple):
    """The first sentences of a document, their concepts, and what follows."""

    name: str  # data set, shard and key
    lang: str
    prompt: list[str]
    followed: list[str]
    concepts: torch.Tensor  # of the prompt and of what stands before every document, float32 [n, dim]


class TextSamples:
    """Writes samples; see the module's text."""

    def __init__(
        self,
        config: RunConfig,
        file: Path,
        engine: Engine,
        monitor: Monitor,
        world: World,
        prompts: list[SamplePrompt],
        folder: Path,
        codec: Codec | None,
        end_of_text: torch.Tensor | None,
    ) -> None:
        """Prepare; see `open_samples`. Only the main process has prompts, the model's folder and a codec."""
        self._config = config
        self._file = file
        self._engine = engine
        self._monitor = monitor
        self._world = world
        self._prompts = prompts
        self._folder = folder
        self._codec = codec
        self._end_of_text = end_of_text

    def should_run(self, step: int, validating: bool) -> bool:
        """See `Callback.should_run`."""
        every = self._config.train.samples.every
        return validating if every is None else step % every == 0

    @torch.no_grad()
    def run(self, state: TrainState) -> dict[str, Any]:
        """See `Callback.run`; the texts go to `samples.jsonl` and to where texts are shown."""
        self._world.at("writing samples")
        average, wanted = self._engine.average, self._world.is_main and self._codec is not None
        trained = {}
        with nullcontext() if average is None else average.in_place():
            for name, gather in self._engine.weights().items():
                weight = gather(0)
                if wanted:
                    trained[name] = weight.to("cpu", copy=True)
        if not wanted:
            return {}
        try:
            written = list(self._write(self._model(trained)))
            with self._file.open("a", encoding="utf-8") as file:
                for sample in written:
                    file.write(json.dumps({"step": state.step, **sample}, ensure_ascii=False) + "\n")
        except (LexaError, RuntimeError, ValueError, OSError) as error:
            logger.warning("no samples at step %d", state.step, exc_info=error)
            self._monitor.display.note(f"no more samples of text: {error}")
            self._codec = None
            return {}
        for number, sample in enumerate(written):
            self._monitor.text(state.step, f"samples/{number}", markdown(sample))
        return {}

    def _model(self, trained: dict[str, torch.Tensor]) -> LCM:
        """The run's model as it is now; what is frozen is as it was."""
        model = load_model(self._folder)
        for name, parameter in model.named_parameters():
            if name in trained:
                parameter.data = trained.pop(name).to(parameter.dtype)  # in its place, not beside it
        return model

    def _write(self, model: LCM) -> Iterator[dict[str, Any]]:
        # The one place where training generates.
        from lexalcm.generate.prompts.prompt import Prompt
        from lexalcm.generate.text import TextModel

        assert self._codec is not None
        writer = TextModel(self._folder, model, self._codec, self._end_of_text)
        options = writer.options(max_sentences=self._config.train.samples.sentences)
        if self._end_of_text is None:
            options = options.model_copy(update={"stop_similarity": None})
        inputs = [Prompt(tuple(one.prompt), one.lang, one.lang, SEED, one.concepts) for one in self._prompts]
        continuations = writer.write_all(inputs, options)
        written: list[list[str]] = [[] for _ in inputs]
        for round_ in continuations:
            for number, sentence in round_:
                written[number].append(sentence.text)
        for one, sentences, stop in zip(self._prompts, written, continuations.stops, strict=True):
            known = {"document": one.name, "lang": one.lang, "prompt": one.prompt, "followed": one.followed}
            yield {**known, "written": sentences, "stop": stop}


def open_samples(
    config: RunConfig, file: Path, engine: Engine, monitor: Monitor, world: World, mixture: Mixture
) -> TextSamples | None:
    """Prepare to write samples, or note why there will be none; every process must call it.

    Args:
        config: the run's settings.
        file: `samples.jsonl`.
        engine: the model in training.
        monitor: where texts go.
        world: this process's place.
        mixture: the run's data sets, the first of which has the documents.
    """
    settings = config.train.samples
    dataset = mixture.datasets[0]
    prompts: list[SamplePrompt] = []
    codec: Codec | None = None
    end_of_text: torch.Tensor | None = None
    folder = Path()

    def prepare() -> bool:
        nonlocal prompts, codec, end_of_text, folder
        record = dataset.manifest.codec
        try:
            large = CODECS.load(record.name).configurable
            if settings.every is None and large:
                logger.info(
                    "no samples of text: the codec %s is large; train.samples.every=N asks for them", record.name
                )
                return False
            prefix = special_vectors(dataset, config.data.all_sets[0].prefix)
            prompts = find_sample_prompts(dataset, settings.documents, settings.prompt, settings.sentences, prefix)
            if not prompts:
                monitor.display.note(
                    f"no samples of text: {dataset.address} has no {SPLIT} documents with text "
                    f"of more than {settings.prompt} sentences"
                )
                return False
            options = CodecOptions(device="cpu") if large else None
            codec = load_codec(record, dataset.path / CODEC_FOLDER, options=options)
            special = read_special(dataset.path)
            folder = model_folder(config.model)  # found once: the hub need not answer later
        except LexaError as error:
            monitor.display.note(f"no samples of text: {error}")
            return False
        end_of_text = torch.from_numpy(special["end_of_text"]) if "end_of_text" in special else None
        return True

    if settings.every == 0 or not world.from_main(prepare):
        return None
    return TextSamples(config, file, engine, monitor, world, prompts, folder, codec, end_of_text)


def find_sample_prompts(
    dataset: Dataset, documents: int, prompt: int, sentences: int, prefix: np.ndarray
) -> list[SamplePrompt]:
    """Prompts from documents of the validation split, always the same ones, spread over it.

    Args:
        dataset: with or without text.
        documents: how many, at most.
        prompt: sentences that the model reads; of a pair, all of its source.
        sentences: that follow, at most.
        prefix: special concepts before every document, [n, dim].
    """
    if SPLIT not in dataset.manifest.splits:
        return []
    split = dataset.split(SPLIT)
    sources = dataset.columns(SPLIT, ["source"]).get("source")
    candidates = np.flatnonzero(split.lengths > prompt)
    spread = candidates[np.arange(documents) * len(candidates) // documents] if len(candidates) else candidates
    found: list[SamplePrompt] = []
    for i in dict.fromkeys([*spread.tolist(), *candidates[:CANDIDATES].tolist()]):
        if len(found) == documents:
            break
        read = int(sources[i]) if sources is not None and sources[i] else prompt
        if (made := _sample_prompt(dataset, split, i, read, sentences, prefix)) is not None:
            found.append(made)
    return found


def _sample_prompt(
    dataset: Dataset, split: Split, i: int, read: int, sentences: int, prefix: np.ndarray
) -> SamplePrompt | None:
    document = split.document(i)
    text = document.get("sentences") or []
    if len(text) <= read:
        return None
    concepts = torch.from_numpy(np.concatenate([prefix, split.embeddings(i)[:read]]).astype(np.float32))
    name = f"{dataset.address} {split.where(i)}"
    return SamplePrompt(name, document["lang"], text[:read], text[read : read + sentences], concepts)


def markdown(sample: dict[str, Any]) -> str:
    """A sample as a text for TensorBoard."""
    parts = [("read", sample["prompt"]), ("the document goes on", sample["followed"]), ("the model", sample["written"])]
    return f"`{sample['document']}`\n\n" + "\n\n".join(
        f"**{title}**\n\n" + "\n\n".join(f"> {sentence}" for sentence in sentences or ["(nothing)"])
        for title, sentences in parts
    )
