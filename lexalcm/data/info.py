"""What a data set holds and how a training would read it, in numbers."""

from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.table import Table

from lexalcm.codec.special import describe_special, kept_sentences
from lexalcm.data.batches.mixture import Mixture
from lexalcm.data.batches.plan_info import PlanSummary, summarize_plan
from lexalcm.data.format.dataset import Dataset
from lexalcm.data.settings import DataSettings


@dataclass(frozen=True)
class DatasetSummary:
    """A data set folder."""

    path: str
    format_version: int
    codec: str
    dim: int
    fingerprint: str
    dtype: str
    splits: dict[str, dict[str, Any]]
    special_concepts: dict[str, str]
    """Name to sentence; empty where that is not noted."""
    plan: PlanSummary | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain values; `plan` only if one was asked for."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def table(self) -> Table:
        """A line for each split and language."""
        table = Table("split", "language", box=box.SIMPLE_HEAD)
        for column in ("documents", "sentences", "shards", "MB"):
            table.add_column(column, justify="right")
        for name, split in self.splits.items():
            counts = (split["documents"], split["sentences"], split["shards"])
            table.add_row(
                name, "all", *(f"{count:,}" for count in counts), f"{split['bytes'] / 1e6:,.1f}", style="bold"
            )
            for lang, count in split["languages"].items():
                table.add_row("", lang, f"{count['documents']:,}", f"{count['sentences']:,}")
        return table

    def lines(self) -> str:
        """What the table leaves out: where, which codec, and the plan if one was asked for."""
        text = f"{self.path}: {self.dim} dimensions in {self.dtype}, codec {self.codec} {self.fingerprint[:12]}"
        if self.special_concepts:
            text += f"\nspecial concepts: {describe_special(self.special_concepts)}"
        if self.plan is not None:
            text += "\n" + self.plan.lines()
        return text


def describe(dataset: Dataset, settings: DataSettings | None = None) -> DatasetSummary:
    """Sum up a data set, and with settings also the plan of a training with them.

    Raises:
        DataError: as `TrainingBatches`, if a plan is asked for.
    """
    manifest = dataset.manifest
    return DatasetSummary(
        path=dataset.address,
        format_version=manifest.format_version,
        codec=manifest.codec.name,
        dim=dataset.dim,
        fingerprint=manifest.codec.fingerprint,
        dtype=manifest.dtype,
        splits={
            name: {
                "documents": split.documents,
                "sentences": split.sentences,
                "shards": len(split.shards),
                "bytes": split.bytes,
                "languages": {lang: count.model_dump() for lang, count in split.languages.items()},
            }
            for name, split in manifest.splits.items()
        },
        special_concepts=kept_sentences(dataset.path),
        plan=None if settings is None else summarize_plan(_mixture(dataset, settings), settings),
    )


def _mixture(dataset: Dataset, settings: DataSettings) -> Mixture:
    return Mixture.open(settings) if settings.sets else Mixture([dataset], settings)
