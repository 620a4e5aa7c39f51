"""The report of a data set: figures as PNG files and one HTML page that needs nothing beside itself.

The page holds its pictures (base64) in a light and a dark version and chooses by the reader's setting; it loads no
script, no font and nothing from the network. The PNG files beside it are the light ones.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from lexalcm import __version__
from lexalcm.atomic import atomic_folder, check_output
from lexalcm.data.dataset import Dataset
from lexalcm.visualize import data_figures as figures
from lexalcm.visualize import data_statistics as statistics
from lexalcm.visualize.style import Picture, draw

PAGE = "index.html"
PAIRS_PER_LANGUAGE = 4


@dataclass(frozen=True)
class Card:
    """A picture with its title and what it says in plain words."""

    picture: Picture
    title: str
    caption: str


@dataclass(frozen=True)
class Fact:
    """A number at the top of the page."""

    value: str
    name: str


@dataclass(frozen=True)
class SplitRow:
    """A line of the table of splits."""

    name: str
    documents: int
    concepts: int
    median: float
    longest: int


@dataclass(frozen=True)
class LanguageRow:
    """A line of the table of languages."""

    name: str
    documents: int
    sentences: int
    median: float
    longest: int


def report_data(
    path: Path | str,
    out: Path | str,
    *,
    split: str = "train",
    sentences: int = 20_000,
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Write the report of a data set into the folder `out`.

    Args:
        path: the data set.
        out: a new folder for `index.html` and the PNG files.
        split: the split that is shown.
        sentences: size of the random sample that text and embeddings are measured on.
        seed: of the sample.
        overwrite: replace `out` if it exists.
        progress: called with (figures drawn, figures).

    Returns:
        What was written, and the numbers of the page's tables.

    Raises:
        UserError: the data set cannot be read, the split is unknown, or `out` cannot be written.
    """
    check_output(out, overwrite=overwrite, marker=PAGE)
    dataset = Dataset.open(path)
    held = dataset.split(split)
    sample = statistics.draw_sample(held, sentences, seed)
    splits = [_split_row(dataset, name) for name in dataset.manifest.splits]
    languages = [_language_row(sample, language) for language in statistics.languages_by_size(sample)]
    cards = _cards(dataset, np.asarray(held.lengths), sample, seed, progress)
    values = {
        "title": f"Data set {path}",
        "version": __version__,
        "command": f"lcm visualize data {path} --split {split} --sample {sentences} --seed {seed}",
        "codec": dataset.manifest.codec.name,
        "fingerprint": dataset.manifest.codec.fingerprint,
        "dim": dataset.dim,
        "split": split,
        "facts": _facts(splits, dataset),
        "sample_note": _sample_note(sample, int(np.sum(held.lengths)), seed),
        "cards": cards,
        "neighbours": statistics.nearest_neighbours(sample, PAIRS_PER_LANGUAGE, seed),
        "splits": splits,
        "languages": languages,
        "normalizer_note": _normalizer_note(dataset),
    }
    page = _environment().get_template("data.html.j2").render(values)
    with atomic_folder(out, overwrite=overwrite, marker=PAGE) as folder:
        (folder / PAGE).write_text(page, encoding="utf-8")
        for card in cards:
            (folder / f"{card.picture.name}.png").write_bytes(card.picture.light)
    return {
        "out": str(out),
        "files": [PAGE, *(f"{card.picture.name}.png" for card in cards)],
        "split": split,
        "sample": {"sentences": len(sample.sentences), "documents": len(sample.names), "seed": seed},
        "splits": [asdict(row) for row in splits],
        "languages": [asdict(row) for row in languages],
    }


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("lexalcm.visualize"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )


def _cards(
    dataset: Dataset,
    lengths: np.ndarray,
    sample: statistics.Sample,
    seed: int,
    progress: Callable[[int, int], None],
) -> list[Card]:
    order = statistics.languages_by_size(sample)
    characters = statistics.sentence_lengths(sample)
    norms = np.linalg.norm(sample.embeddings, axis=1)
    quantiles = statistics.coordinate_quantiles(dataset, sample)
    points, shares = statistics.principal_components(sample.embeddings)
    pairs = statistics.similarities(sample, seed)
    plans: list[tuple[str, str, str, Callable[..., Any], tuple[Any, ...]]] = [
        (
            "document_lengths",
            "Documents per length",
            f"{len(lengths):,} documents; half of them have {np.median(lengths):,.0f} concepts or more, the longest "
            f"{lengths.max():,}. Documents longer than a training row are cut into windows.",
            figures.document_lengths,
            (lengths,),
        ),
        (
            "sentence_lengths",
            "Sentence lengths",
            f"{len(characters):,} sentences; the median has {np.median(characters):,.0f} characters, the longest "
            f"{characters.max():,}. Very long sentences are hard to hold in one embedding.",
            figures.sentence_lengths,
            (characters, sample.languages, order),
        ),
        (
            "norms",
            "Embedding norms",
            f"Lengths of the vectors: {norms.min():#.4g} to {norms.max():#.4g}, {norms.mean():#.4g} on average. "
            "A length far from all others is usually a broken or empty sentence.",
            figures.norms,
            (norms, sample.languages, order),
        ),
        (
            "coordinate_spread",
            "Spread of normalized coordinates",
            f"Each of the {dataset.dim:,} coordinates after normalization, as the model sees it. The bands should be "
            "of even width and near the dashed lines, where a Gaussian's quantiles lie; a spike is a dimension that "
            "will dominate the loss.",
            figures.coordinate_spread,
            (quantiles,),
        ),
        (
            "components",
            "The space from its widest side",
            f"Sentences on the two directions of largest variance, which hold {shares.sum():.1%} of it, coloured by "
            "language. Clouds that lie apart mean that the embedding tells languages from one another.",
            figures.components,
            (points, shares, sample.languages, order),
        ),
        (
            "similarities",
            "Neighbours and strangers",
            _pairs_caption(pairs),
            figures.pair_similarities,
            (pairs.neighbours, pairs.random),
        ),
    ]
    cards = []
    for done, (name, title, caption, figure, arguments) in enumerate(plans):
        cards.append(Card(draw(name, figure, *arguments), title, caption))
        progress(done + 1, len(plans))
    return cards


def _pairs_caption(pairs: statistics.Similarities) -> str:
    parts = [
        f"{name} have a mean cosine of {values.mean():.2f} ({len(values):,} pairs)"
        for name, values in (
            ("Sentences that follow one another", pairs.neighbours),
            ("random pairs of one language from different documents", pairs.random),
        )
        if len(values)
    ]
    return ", ".join(parts) + ". The farther apart the two, the more the sentences before tell about the next one."


def _facts(splits: list[SplitRow], dataset: Dataset) -> list[Fact]:
    documents = sum(row.documents for row in splits)
    concepts = sum(row.concepts for row in splits)
    languages = {language for split in dataset.manifest.splits.values() for language in split.languages}
    return [
        Fact(f"{documents:,}", "documents"),
        Fact(f"{concepts:,}", "concepts (sentences)"),
        Fact(f"{concepts / documents:,.1f}", "concepts per document"),
        Fact(f"{len(languages)}", "language" if len(languages) == 1 else "languages"),
        Fact(f"{dataset.dim:,}", "numbers per concept"),
    ]


def _sample_note(sample: statistics.Sample, concepts: int, seed: int) -> str:
    if len(sample.sentences) == concepts:
        return f"Measured on all {concepts:,} sentences of the split."
    return (
        f"Measured on {len(sample.sentences):,} of {concepts:,} sentences: {len(sample.names):,} whole documents "
        f"drawn at random (seed {seed}). Document lengths are those of all documents."
    )


def _normalizer_note(dataset: Dataset) -> str:
    scale = dataset.normalizer()["scale"]
    return f"normalizer scales {scale.min():.3g} to {scale.max():.3g} over {len(scale):,} dimensions"


def _split_row(dataset: Dataset, name: str) -> SplitRow:
    lengths = np.asarray(dataset.split(name).lengths)
    return SplitRow(
        name=name,
        documents=len(lengths),
        concepts=int(lengths.sum()),
        median=float(np.median(lengths)) if len(lengths) else 0.0,
        longest=int(lengths.max(initial=0)),
    )


def _language_row(sample: statistics.Sample, language: str) -> LanguageRow:
    members = sample.languages == language
    characters = statistics.sentence_lengths(sample)[members]
    return LanguageRow(
        name=language,
        documents=len(np.unique(sample.documents[members])),
        sentences=int(members.sum()),
        median=float(np.median(characters)),
        longest=int(characters.max()),
    )
