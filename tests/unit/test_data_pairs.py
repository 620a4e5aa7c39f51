import json
from pathlib import Path

import numpy as np
import pytest

from lexalcm.data.batches.loader import TrainingBatches
from lexalcm.data.batches.mixture import Mixture
from lexalcm.data.build.one_process import build_from_paths
from lexalcm.data.build.settings import BuildSettings
from lexalcm.data.settings import DataSettings
from lexalcm.errors import DataError


def write(file: Path, records: list[dict]) -> Path:
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


@pytest.mark.usefixtures("hash_codec")
def test_source_and_target_become_documents_whose_target_alone_counts(tmp_path: Path) -> None:
    pairs = [
        {"id": "a", "source": "One here. Two here. Three.", "target": "Short.", "kind": "summary"},
        {"id": "b", "source": ["Is it?", "Say!"], "target": ["It is.", "Yes."]},
        {"id": "c", "source": "  ", "target": "Nothing to go on."},
        {"id": "d", "text": "Plain text. It has no source. It is read as ever.", "source": "a magazine"},
    ]
    settings = BuildSettings(codec="hash", validation=0)
    result = build_from_paths([write(tmp_path / "pairs.jsonl", pairs)], tmp_path / "pairs", settings)
    assert result.documents_without_sentences == 1
    split = result.dataset.split("train")
    documents = [split.document(i) for i in range(3)]
    assert [document.get("source") for document in documents] == [3, 2, None]
    assert documents[1]["sentences"] == ["Is it?", "Say!", "It is.", "Yes."]
    assert [document["metadata"] for document in documents] == [{"kind": "summary"}, {}, {"source": "a magazine"}]
    assert result.dataset.columns("train", ["source"])["source"].tolist() == [3, 2, 0]

    given = DataSettings(path=str(tmp_path / "pairs"), row_length=16, micro_batch=1, end_of_text=False)
    batches = TrainingBatches(Mixture.open(given), given, seed=0)
    read = list(batches.iterate(0, batches.steps_per_epoch))
    targets = np.concatenate([batch.embeddings[batch.targets].numpy() for batch in read])
    counted = ["Short.", "It is.", "Yes.", "It has no source.", "It is read as ever."]
    expected = np.concatenate([result.dataset.codec().encode([sentence], "eng_Latn") for sentence in counted])
    order = np.lexsort(targets.T), np.lexsort(expected.astype(np.float16).T)
    np.testing.assert_array_equal(targets[order[0]], expected.astype(np.float16)[order[1]])


def test_a_side_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "pairs.jsonl", [{"source": 3, "target": "Three."}])
    with pytest.raises(DataError, match="field 'source' holds int"):
        build_from_paths([file], tmp_path / "out")
