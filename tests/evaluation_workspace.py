"""A small data set with real text and its codec, and models for it: what evaluations of text need."""

import random
from pathlib import Path

import torch

from lexalcm.codec.lsa.codec import LsaCodec
from lexalcm.codec.special import SPECIAL_FILE, write_special
from lexalcm.data.format.dataset import Dataset
from lexalcm.data.format.manifest import Manifest, write_manifest
from lexalcm.data.format.shards import ShardWriter
from lexalcm.data.normalizer.fit import NormalizerSettings, fit_on_documents, save_normalizer
from lexalcm.model import BaseLCM, ModelConfig, create_model

DIM = 8
_THINGS = ["cat", "dog", "train", "river", "teacher", "window", "garden", "letter", "mountain", "song"]
_DEEDS = ["sees", "finds", "loses", "paints", "follows", "remembers", "forgets", "carries"]
_JAPANESE = ["猫が", "犬が", "汽車が", "川が", "先生が"], ["走る。", "光っている。", "見える。", "消えた。"]


def _english(generator: random.Random) -> str:
    one, other = generator.sample(_THINGS, 2)
    return f"The {one} {generator.choice(_DEEDS)} the {other} in the {generator.choice(_THINGS)}."


def _japanese(generator: random.Random) -> str:
    return generator.choice(_JAPANESE[0]) + generator.choice(_JAPANESE[1])


def make_text_dataset(folder: Path) -> Dataset:
    """Write a data set of 24 training documents and 14 others, of 2 to 14 sentences; two in seven are Japanese."""
    generator = random.Random(0)

    def documents(count: int) -> list[tuple[str, list[str]]]:
        return [
            (lang, [write(generator) for _ in range(generator.randint(2, 14))])
            for lang, write in ([("eng_Latn", _english)] * 5 + [("jpn_Jpan", _japanese)] * 2) * (count // 7)
        ]

    splits = {"train": documents(28), "validation": documents(14)}
    codec = LsaCodec.create(splits["train"], dim=DIM)
    folder.mkdir(parents=True)
    records = {}
    for split, texts in splits.items():
        writer = ShardWriter(folder, split, "float32", 2**20)
        for number, (lang, sentences) in enumerate(texts):
            about = {"id": f"{split}-{number}", "lang": lang, "title": "", "sentences": sentences, "metadata": {}}
            writer.add(about, codec.encode(sentences, lang))
        records[split] = writer.close()
    codec.save(folder / "codec")
    write_special(folder / SPECIAL_FILE, codec)
    settings = NormalizerSettings()
    write_manifest(folder, Manifest(codec=codec.record(), dtype="float32", normalizer=settings, splits=records))
    save_normalizer(folder, fit_on_documents(Dataset.open(folder).split("train"), settings))
    return Dataset.open(folder)


def make_text_model(
    folder: Path, dataset: Dataset, architecture: str = "base", seed: int = 0, **generation: object
) -> Path:
    """Write a model folder with random weights, the data set's codec and special concepts."""
    sizes = {"dim": DIM, "width": 16, "num_heads": 2, "ffn_dim": 24, "num_layers": 2}
    more = {"context_layers": 1} if architecture == "two-tower" else {}
    codec = dataset.manifest.codec
    model = create_model(ModelConfig(architecture=architecture, codec=codec, **sizes, **more), seed=seed)
    model.normalizer.set_statistics(dataset.normalizer())
    model.generation_config = generation
    folder.mkdir(parents=True)
    model.save_pretrained(folder)
    loaded = dataset.codec()
    loaded.save(folder / "codec")
    write_special(folder / SPECIAL_FILE, loaded)
    return folder


def guess_next(model: BaseLCM, story: torch.Tensor) -> torch.Tensor:
    """What a base model says after a story [n, dim], in one forward pass over it: [dim]."""
    with torch.no_grad():
        guess = model(
            model.normalizer.normalize(story[None]),
            torch.zeros(1, len(story), dtype=torch.int64),
            torch.arange(len(story))[None],
        )[0, -1]
        return model.normalizer.denormalize(guess)
