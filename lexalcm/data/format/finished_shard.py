"""What is known of a shard once it is written: enough for the manifest and the index, without reading it again."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from lexalcm.data.format.manifest import LanguageCount, ShardRecord
from lexalcm.data.format.target_spans import ANNOTATIONS, Annotations
from lexalcm.json_text import parse_json


@dataclass(frozen=True)
class FinishedShard:
    """A shard that is written, and what the manifest and the index say of it."""

    record: ShardRecord
    languages: dict[str, LanguageCount]
    offset: np.ndarray
    """int64 [documents]"""
    n: np.ndarray
    """int32 [documents]"""
    lang: np.ndarray
    """uint16 [documents], number in the sorted languages"""
    crc32: np.ndarray
    """uint32 [documents], of a document's numbers as stored"""
    source: np.ndarray
    """int32 [documents], sentences of a pair's source; 0 where there is none"""
    annotations: dict[str, Annotations]
    """By their names in `ANNOTATIONS`, of all documents."""

    def to_json(self) -> str:
        """As text, for `from_json`."""
        tree = {
            "record": self.record.model_dump(),
            "languages": {lang: count.model_dump() for lang, count in self.languages.items()},
            "offset": self.offset.tolist(),
            "n": self.n.tolist(),
            "lang": self.lang.tolist(),
            "crc32": self.crc32.tolist(),
            "source": self.source.tolist(),
            **{name: annotations.lists() for name, annotations in self.annotations.items() if len(annotations.values)},
        }
        return json.dumps(tree, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "FinishedShard":
        """Read what `to_json` wrote."""
        tree = parse_json(text)
        languages = {lang: LanguageCount.model_validate(count) for lang, count in tree["languages"].items()}
        record = ShardRecord.model_validate(tree["record"])
        columns = {"offset": np.int64, "n": np.int32, "lang": np.uint16, "crc32": np.uint32, "source": np.int32}
        arrays = {name: np.array(tree[name], dtype) for name, dtype in columns.items()}
        annotations = {
            name: Annotations.of(tree.get(name, [[]] * len(tree["n"])), numbers)
            for name, numbers in ANNOTATIONS.items()
        }
        return cls(record, languages, **arrays, annotations=annotations)


def number_languages(langs: Iterable[str], languages: Iterable[str]) -> np.ndarray:
    """The number that each language has in the sorted `languages`: uint16."""
    numbers = {lang: number for number, lang in enumerate(sorted(languages))}
    return np.array([numbers[lang] for lang in langs], np.uint16)
