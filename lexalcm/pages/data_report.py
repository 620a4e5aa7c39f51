"""The report of a data set: what a model will read, in figures, tables and pairs of near sentences."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lexalcm.io.atomic import check_output
from lexalcm.io.progress import Progress, silent
from lexalcm.pages import data_figures as figures
from lexalcm.pages import data_statistics as statistics
from lexalcm.pages.data_source import DataSource, open_source
from lexalcm.pages.page import PAGE, Fact, FigureSpec, draw_figures, render_page, write_report
from lexalcm.pages.style import Format

PAIRS_PER_LANGUAGE = 4


@dataclass(frozen=True)
class LanguageRow:
    """A line of the table of languages."""

    name: str
    documents: int
    sentences: int
    median: float | None
    """Characters; None where the text is not stored."""
    longest: int | None


def report_data(
    path: Path | str,
    out: Path | str,
    *,
    split: str = "train",
    sentences: int = 20_000,
    seed: int = 0,
    batch: int = 256,
    format: Format = "png",
    overwrite: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write the report of a data set into the folder `out`.

    Args:
        path: a data set, folder or address, or parquet of embedded text (see `lexalcm.pages.parquet_source`).
        out: a new folder for `index.html` and the pictures.
        split: the split that is shown.
        sentences: size of the random sample that text and embeddings are measured on.
        seed: of the sample.
        batch: documents read at a time.
        format: of the pictures.
        overwrite: replace `out` if it exists.
        progress: opens a report of long work.

    Returns:
        What was written, and the numbers of the page's tables.

    Raises:
        UserError: the data cannot be read, the split is unknown, or `out` cannot be written.
    """
    check_output(out, overwrite=overwrite, marker=PAGE)
    source = open_source(path, split, sentences, seed, batch, progress)
    sample = source.sample
    languages = [_language_row(sample, language) for language in statistics.languages_by_size(sample)]
    drawn = draw_figures(_figure_specs(source, seed), format, progress)
    values = {
        "title": f"Data set {path}",
        "command": f"lcm visualize data {path} --split {split} --sample {sentences} --seed {seed}",
        "codec": source.codec,
        "fingerprint": source.fingerprint,
        "dim": source.dim,
        "split": split,
        "facts": _facts(source),
        "notes": source.notes,
        "figures": drawn,
        "neighbours": statistics.nearest_neighbours(sample, PAIRS_PER_LANGUAGE, seed) if sample.has_text else [],
        "splits": source.splits,
        "languages": languages,
        "normalizer_note": source.normalizer_note,
    }
    files = write_report(out, render_page("data.html.j2", values), drawn, overwrite=overwrite)
    return {
        "out": str(out),
        "files": files,
        "split": split,
        "sample": {"sentences": len(sample.embeddings), "documents": len(sample.names), "seed": seed},
        "notes": source.notes,
        "splits": [asdict(row) for row in source.splits],
        "languages": [asdict(row) for row in languages],
    }


def _figure_specs(source: DataSource, seed: int) -> list[FigureSpec]:
    sample, lengths = source.sample, source.lengths
    order = statistics.languages_by_size(sample)
    norms = np.linalg.norm(sample.embeddings, axis=1)
    points, shares = statistics.principal_components(sample.embeddings)
    pairs = statistics.similarities(sample, seed)
    specs = [
        FigureSpec(
            "document_lengths",
            "Document length",
            f"{len(lengths):,} {source.lengths_of}; half of them have {np.median(lengths):,.0f} concepts or more, the "
            f"longest {lengths.max():,}. Documents longer than a training row are cut into windows.",
            figures.document_lengths,
            (lengths,),
        )
    ]
    if sample.has_text:
        characters = statistics.sentence_lengths(sample)
        specs.append(
            FigureSpec(
                "sentence_lengths",
                "Sentence length",
                f"{len(characters):,} sentences; the median has {np.median(characters):,.0f} characters, the longest "
                f"{characters.max():,}. Very long sentences are hard to hold in one embedding.",
                figures.sentence_lengths,
                (characters, sample.languages, order),
            )
        )
    specs.append(
        FigureSpec(
            "norms",
            "Embedding norm",
            f"L2 norms of the vectors: {norms.min():#.4g} to {norms.max():#.4g}, {norms.mean():#.4g} on average. "
            "A norm far from all others is usually a broken or empty sentence.",
            figures.norms,
            (norms, sample.languages, order),
        )
    )
    if source.normalizer is not None:
        specs.append(_quantile_spec(source.normalizer, sample, source.dim))
    specs += [
        FigureSpec(
            "pca",
            "PCA",
            "The space from its widest side: sentences on the two directions of largest variance, which hold "
            f"{shares.sum():.1%} of it, coloured by language. Clouds that lie apart mean that the embedding tells "
            "languages from one another.",
            figures.pca,
            (points, shares, sample.languages, order),
        ),
        FigureSpec(
            "cosine_similarity",
            "Cosine similarity of consecutive and random sentences",
            _pairs_caption(pairs),
            figures.pair_similarities,
            (pairs.consecutive, pairs.random),
        ),
    ]
    return specs


def _quantile_spec(normalizer: Mapping[str, np.ndarray], sample: statistics.Sample, dim: int) -> FigureSpec:
    return FigureSpec(
        "coordinate_quantiles",
        "Quantiles of normalized coordinates",
        f"The spread of each of the {dim:,} coordinates after normalization, as the model sees it. The bands should "
        "be of even width and near the dashed lines, the quantiles of a standard normal distribution; a spike is a "
        "dimension that will dominate the loss.",
        figures.coordinate_quantiles,
        (statistics.coordinate_quantiles(normalizer, sample),),
    )


def _pairs_caption(pairs: statistics.Similarities) -> str:
    parts = [
        f"{name} have a mean cosine similarity of {values.mean():.2f} ({len(values):,} pairs)"
        for name, values in (
            ("sentences that follow one another", pairs.consecutive),
            ("random pairs of one language from different documents", pairs.random),
        )
        if len(values)
    ]
    return (
        f"Neighbours and strangers: {', '.join(parts)}. The farther apart the two, the more the sentences before tell "
        "about the next one."
    )


def _facts(source: DataSource) -> list[Fact]:
    documents = sum(split.documents for split in source.splits)
    concepts = sum(split.concepts for split in source.splits)
    facts = [
        Fact(f"{documents:,}", "documents"),
        Fact(f"{concepts:,}", "concepts (sentences)"),
        Fact(f"{concepts / max(1, documents):,.1f}", "concepts per document"),
        Fact(f"{source.dim:,}", "embedding dimension"),
    ]
    if source.languages is not None:
        facts.insert(3, Fact(f"{source.languages}", "language" if source.languages == 1 else "languages"))
    return facts


def _language_row(sample: statistics.Sample, language: str) -> LanguageRow:
    members = sample.languages == language
    characters = statistics.sentence_lengths(sample)[members] if sample.has_text else None
    return LanguageRow(
        name=language,
        documents=len(np.unique(sample.documents[members])),
        sentences=int(members.sum()),
        median=None if characters is None else float(np.median(characters)),
        longest=None if characters is None else int(characters.max()),
    )
