"""What `lcm verify data` found: findings by document, and some sentences as the codec gives them back."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rich import box
from rich.table import Table
from rich.text import Text

Severity = Literal["error", "warning"]

SHOWN = 20
"""Findings that a table lists one by one."""

KEPT = 1000
"""Findings of either severity that are kept; further ones are only counted."""


@dataclass(frozen=True)
class Finding:
    """Something wrong with a data set."""

    severity: Severity
    where: str
    """A file, or a shard and the key of a document in it."""
    what: str


@dataclass(frozen=True)
class DecodedSentence:
    """A stored embedding given back to the codec."""

    where: str
    """Shard, key of the document, number of the sentence."""
    sentence: str
    decoded: str
    cosine: float
    """Between the stored embedding and the sentence embedded anew."""


@dataclass
class DataVerification:
    """What was checked and what was found."""

    dataset: str
    quick: bool = False
    """Only a sample of the documents was read, and no hash taken."""
    findings: list[Finding] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    """How many further findings there are, by severity."""
    documents: int = 0
    """Documents whose content was read."""
    concepts: int = 0
    decoded: list[DecodedSentence] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._noted: Counter[str] = Counter()

    @property
    def ok(self) -> bool:
        """Whether training and generation can rely on the data set; warnings do not count."""
        return not any(finding.severity == "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """As plain values, with `ok`."""
        return {"ok": self.ok, **asdict(self)}

    def table(self) -> Table:
        """The findings, errors first; of many, the first."""
        table = Table("severity", "where", "what", box=box.SIMPLE_HEAD)
        by_severity = sorted(self.findings, key=lambda finding: finding.severity)
        for finding in by_severity[:SHOWN]:
            style = "red" if finding.severity == "error" else "yellow"
            table.add_row(Text(finding.severity, style=style), Text(finding.where), Text(finding.what))
        more = len(by_severity) + sum(self.left_out.values()) - SHOWN
        if more > 0:
            table.add_row("", "", f"and {more:,} more")
        return table

    def decoded_table(self) -> Table:
        """The decoded sentences beside what they were."""
        table = Table("cosine", box=box.SIMPLE_HEAD, expand=True)
        for name in ("stored sentence", "decoded from its embedding"):  # as much of each as a line has room for
            table.add_column(name, no_wrap=True, overflow="ellipsis", ratio=1)
        for one in self.decoded:
            table.add_row(f"{one.cosine:.3f}", Text(one.sentence), Text(one.decoded))
        return table

    def error(self, where: str, what: str) -> None:
        """Note an error."""
        self._note(Finding("error", where, what))

    def warn(self, where: str, what: str) -> None:
        """Note a warning."""
        self._note(Finding("warning", where, what))

    def _note(self, finding: Finding) -> None:
        self._noted[finding.severity] += 1
        if self._noted[finding.severity] <= KEPT:
            self.findings.append(finding)
        else:
            self.left_out[finding.severity] = self._noted[finding.severity] - KEPT
