import base64
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lexalcm.data.format.manifest import write_manifest
from lexalcm.data.format.shards import ShardWriter
from lexalcm.errors import DataError, UserError
from lexalcm.io.progress import silent
from lexalcm.pages import data_statistics as statistics
from lexalcm.pages.data_report import report_data
from lexalcm.pages.data_source import choose_documents, open_source

DIM = 6
FIGURES = ["coordinate_quantiles", "cosine_similarity", "document_lengths", "norms", "pca", "sentence_lengths"]


@pytest.fixture(scope="module")
def dataset(make_dataset):
    generator = np.random.default_rng(0)

    def document(lang, length):
        return lang, generator.normal(size=(length, DIM)).cumsum(0).astype(np.float32)

    train = [document("eng_Latn", n) for n in generator.integers(1, 40, size=20)]
    train += [document("jpn_Jpan", n) for n in generator.integers(5, 40, size=6)]
    return make_dataset({"train": train, "validation": train[:3]})


@pytest.fixture(scope="module")
def report(dataset, tmp_path_factory):
    """A report of all of the data: its folder and what was returned."""
    out = tmp_path_factory.mktemp("reports") / "deeper" / "data"
    return out, report_data(dataset.path, out)


def source(path, sentences, split="train", seed=1):
    return open_source(path, split, sentences, seed, 7, silent)


def png_size(data):
    """Width and height from the header of a PNG file."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


class Page(HTMLParser):
    """What a page refers to, and what it says."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.alternatives, self.tags, self.text = [], [], set(), ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        values = dict(attributes)
        self.sources += [values[key] for key in ("src", "srcset", "href") if key in values]
        if tag == "img":
            self.alternatives.append(values["alt"])

    def handle_data(self, data):
        self.text += data


def test_sample_holds_whole_documents_and_is_all_when_asked_for_more(dataset):
    split = dataset.split("train")
    for sentences in (50, int(0.8 * split.lengths.sum())):  # few are drawn otherwise than most
        sample = source(dataset.path, sentences).sample
        assert sentences <= len(sample.sentences) < sentences + 40
        for number, size in enumerate(np.bincount(sample.documents)):
            first = int(np.searchsorted(sample.documents, number))
            document = int(sample.names[number].removeprefix("train-"))
            assert size == split.lengths[document]
            assert sample.embeddings[first : first + size] == pytest.approx(split.embeddings(document))
    everything = source(dataset.path, 10**6).sample
    assert len(everything.sentences) == split.lengths.sum()
    assert everything.names == [f"train-{i}" for i in range(len(split))]


def test_every_document_has_the_same_chance(make_dataset):
    lengths = np.tile([1, 2, 3, 4], 50)
    counts = np.zeros(len(lengths))
    for seed in range(300):
        counts[choose_documents(lengths, 40, seed)] += 1
    # 40 of 500 sentences: each document in 8% of the samples, or 24 of 300, with a standard deviation below 5.
    assert counts.min() > 4
    assert counts.max() < 50
    for length in (1, 4):
        assert counts[lengths == length].mean() == pytest.approx(counts.mean(), rel=0.1)


def test_principal_components_equal_a_singular_value_decomposition():
    data = np.random.default_rng(0).normal(size=(200, 5)) * [5, 3, 1, 1, 0.1] + 7
    points, shares = statistics.principal_components(data.astype(np.float32))
    left, values, _ = np.linalg.svd(data - data.mean(0), full_matrices=False)
    assert np.abs(points) == pytest.approx(np.abs(left[:, :2] * values[:2]), rel=1e-3, abs=1e-3)
    assert shares == pytest.approx(values[:2] ** 2 / (values**2).sum(), rel=1e-4)


def test_consecutive_sentences_are_of_one_document_and_random_pairs_share_only_the_language():
    # Each document has a direction of its own, at right angles to all others: cosine 1 inside, 0 across.
    documents = np.repeat(np.arange(4), 5)
    languages = np.array(["eng_Latn"] * 10 + ["jpn_Jpan"] * 10)
    sample = statistics.Sample(
        embeddings=np.eye(4, dtype=np.float32)[documents] * 3,
        documents=documents,
        sentences=[f"{i}" for i in range(20)],
        languages=languages,
        names=list("abcd"),
    )
    pairs = statistics.similarities(sample, seed=0)
    assert pairs.consecutive == pytest.approx(np.ones(16))
    assert len(pairs.random)
    assert pairs.random == pytest.approx(np.zeros(len(pairs.random)))


def test_nearest_neighbour_is_found_in_another_document():
    embeddings = np.array([[1, 0], [0.99, 0.1], [0.9, 0.4], [0, 1], [0.95, 0.1], [-1, 0]], dtype=np.float32)
    sample = statistics.Sample(
        embeddings=embeddings,
        documents=np.array([0, 0, 1, 1, 2, 2]),
        sentences=["query", "same document", "near", "far", "nearest", "opposite"],
        languages=np.array(["eng_Latn"] * 6),
        names=["A", "B", "C"],
    )
    found = {one.sentence: one for one in statistics.nearest_neighbours(sample, 6, seed=0)}
    one = found["query"] if "query" in found else found["same document"]
    assert (one.nearest, one.nearest_document) == ("nearest", "C")
    cosine = embeddings[0 if one.sentence == "query" else 1] @ embeddings[4]
    norms = np.linalg.norm(embeddings[0 if one.sentence == "query" else 1]) * np.linalg.norm(embeddings[4])
    assert one.cosine == pytest.approx(cosine / norms)


def test_report_writes_pictures_and_one_page_that_needs_nothing_else(report):
    out, result = report
    assert sorted(path.name for path in out.iterdir()) == sorted(result["files"])
    assert sorted(result["files"]) == sorted(["index.html", *(f"{name}.png" for name in FIGURES)])
    page = Page((out / "index.html").read_text(encoding="utf-8"))
    assert all(source.startswith("data:") for source in page.sources)
    assert not page.tags & {"script", "link rel=stylesheet", "iframe"}
    assert len(page.alternatives) == len(FIGURES)
    assert all(len(text) > 40 for text in page.alternatives)
    pictures = [source for source in page.sources if source.startswith("data:image/png")]
    assert len(pictures) == 2 * len(FIGURES)  # light and dark
    assert {png_size(base64.b64decode(source.split(",")[1])) for source in pictures} == {(1120, 700)}
    assert {png_size((out / f"{name}.png").read_bytes()) for name in FIGURES} == {(1120, 700)}


def test_report_says_how_many_sentences_it_rests_on(dataset, report, tmp_path):
    total = int(dataset.split("train").lengths.sum())
    out, result = report
    assert result["sample"]["sentences"] == total
    assert f"all {total:,} sentences" in (out / "index.html").read_text(encoding="utf-8")
    result = report_data(dataset.path, tmp_path / "one", sentences=60, seed=3)
    page = (tmp_path / "one" / "index.html").read_bytes()
    assert f"{result['sample']['sentences']} of {total:,} sentences" in " ".join(page.decode().split())
    report_data(dataset.path, tmp_path / "two", sentences=60, seed=3)
    assert (tmp_path / "two" / "index.html").read_bytes() == page


def test_text_of_the_data_cannot_become_markup(dataset, tmp_path, monkeypatch):
    def with_markup(self, number):
        document = real(self, number)
        return document | {"sentences": ["<script>alert(1)</script> & more"] * len(document["sentences"])}

    real = type(dataset.split("train")).document
    monkeypatch.setattr(type(dataset.split("train")), "document", with_markup)
    report_data(dataset.path, tmp_path / "out")
    page = Page((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert "<script>alert(1)</script> & more" in page.text


@pytest.mark.parametrize("shape", ["nine languages, one sentence a document", "unit vectors, one very long document"])
def test_special_shapes_of_data_are_drawn_too(make_dataset, tmp_path, shape):
    generator = np.random.default_rng(0)
    if shape.startswith("nine"):
        documents = [(f"l{i % 9:02d}_Latn", generator.normal(size=(1, DIM))) for i in range(27)]
    else:
        documents = [("eng_Latn", generator.normal(size=(n, DIM))) for n in (1, 1, 2, 2, 3, 900)]
        documents = [(lang, array / np.linalg.norm(array, axis=1, keepdims=True)) for lang, array in documents]
    data = make_dataset({"train": documents})
    assert len(report_data(data.path, tmp_path / "out")["files"]) == 7


def foreign(path, rows, embeddings_type=None, **columns):
    """Writes parquet as Meta's pipeline does: `rows` are (sentences, [n, dim])."""
    numbers = [array if array is None or isinstance(array, bytes) else list(array) for _, array in rows]
    table = {
        "text_sentences": pa.array([sentences for sentences, _ in rows], pa.list_(pa.string())),
        "text_sentences_sonar_emb": pa.array(numbers, embeddings_type or pa.list_(pa.list_(pa.float32()))),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table | columns), path, row_group_size=8)


def some_rows(count, seed=0):
    generator = np.random.default_rng(seed)
    return [
        ([f"Sentence {place} of {number}." for place in range(n)], generator.normal(size=(n, DIM)).astype(np.float32))
        for number, n in enumerate(generator.integers(1, 9, size=count))
    ]


@pytest.mark.parametrize("stored", ["lists", "doubles", "fixed-size lists", "large lists", "bytes", "all bytes"])
def test_foreign_parquet_gives_its_numbers_however_they_are_stored(tmp_path, stored):
    rows = some_rows(20)
    types = {
        "lists": pa.list_(pa.list_(pa.float32())),
        "doubles": pa.list_(pa.list_(pa.float64())),
        "fixed-size lists": pa.list_(pa.list_(pa.float32(), DIM)),
        "large lists": pa.large_list(pa.large_list(pa.float32())),
        "bytes": pa.list_(pa.binary()),
        "all bytes": pa.large_binary(),
    }
    written = rows
    if stored == "bytes":
        written = [(sentences, [vector.tobytes() for vector in array]) for sentences, array in rows]
    if stored == "all bytes":
        written = [(sentences, array.tobytes()) for sentences, array in rows]
    foreign(tmp_path / "part.parquet", written, types[stored], lang=["eng_Latn"] * 20, id=range(20))
    sample = source(tmp_path / "part.parquet", 10**6).sample
    np.testing.assert_array_equal(sample.embeddings, np.concatenate([array for _, array in rows]))
    assert sample.sentences == [sentence for sentences, _ in rows for sentence in sentences]
    assert sample.names == [str(i) for i in range(20)]
    assert set(sample.languages) == {"eng_Latn"}


def test_the_lexalcm_layout_has_two_splits(tmp_path):
    foreign(tmp_path / "Train" / "a.parquet", some_rows(30))
    foreign(tmp_path / "Train" / "b.parquet", some_rows(20, seed=1))
    foreign(tmp_path / "Val" / "a.parquet", some_rows(10, seed=2))
    result = report_data(tmp_path, tmp_path / "out", split="validation", batch=3)
    assert {row["name"]: row["documents"] for row in result["splits"]} == {"train": 50, "validation": 10}
    assert result["sample"]["documents"] == 10
    assert len(result["files"]) == 1 + len(FIGURES)
    with pytest.raises(DataError, match="no split 'test': it has train, validation"):
        source(tmp_path, 100, split="test")


def test_a_sample_of_parquet_is_about_the_size_asked_for_and_the_page_says_so(tmp_path):
    rows = some_rows(2000)
    foreign(tmp_path / "files" / "a.parquet", rows[:900])
    foreign(tmp_path / "files" / "b.parquet", rows[900:])
    total = sum(len(sentences) for sentences, _ in rows)
    sizes = [len(source(tmp_path / "files", 400, seed=seed).sample.sentences) for seed in range(20)]
    assert np.mean(sizes) == pytest.approx(400, rel=0.1)
    result = report_data(tmp_path / "files", tmp_path / "out", sentences=400)
    page = " ".join((tmp_path / "out" / "index.html").read_text(encoding="utf-8").split())
    assert f"{result['sample']['sentences']:,} of {total:,} sentences" in page
    assert "documents of the sample" in page


def test_rows_that_cannot_be_used_are_left_out_and_counted(tmp_path):
    rows = some_rows(10)
    rows[1] = ([], np.zeros((0, DIM), np.float32))
    rows[2][1][0, 3] = np.nan
    rows[3][1][0] = 0
    rows[4] = (rows[4][0] + ["one more"], rows[4][1])
    rows[5] = (rows[5][0], rows[5][1][:, :4])
    rows[6] = (rows[6][0], None)
    foreign(tmp_path / "part.parquet", rows)
    found = source(tmp_path / "part.parquet", 10**6)
    assert len(found.sample.names) == 4
    note = found.notes[1]
    assert note.startswith("6 rows that were drawn are left out")
    for reason in ("no sentence", "NaN", "zero vector", "2 with vectors that do not fit", "another dimension"):
        assert reason in note


def test_files_that_are_not_such_parquet_are_said(tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="no column text_sentences: it has text"):
        source(tmp_path, 10)
    (tmp_path / "other.parquet").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="is not parquet, or damaged"):
        source(tmp_path, 10)


def test_a_data_set_without_text_shows_its_numbers(make_dataset, tmp_path):
    generator = np.random.default_rng(0)
    data = make_dataset({"train": [("eng_Latn", generator.normal(size=(9, DIM))) for _ in range(9)]})
    split = data.split("train")
    contents = [(split.document(i), np.array(split.embeddings(i))) for i in range(9)]
    writer = ShardWriter(data.path, "train", "float32", 2**20, text=False)
    for document, embeddings in contents:
        writer.add(document, embeddings)
    manifest = data.manifest.model_copy(update={"text": False, "splits": {"train": writer.close()}})
    write_manifest(data.path, manifest)
    result = report_data(data.path, tmp_path / "out")
    assert "sentence_lengths.png" not in result["files"]
    assert result["languages"] == [
        {"name": "eng_Latn", "documents": 9, "sentences": 81, "median": None, "longest": None}
    ]


def test_mistakes_are_said_before_anything_is_written(dataset, report, tmp_path):
    with pytest.raises(DataError, match="no data set"):
        report_data(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(DataError, match="no split 'test'"):
        report_data(dataset.path, tmp_path / "out", split="test")
    assert not (tmp_path / "out").exists()
    out, _ = report
    with pytest.raises(UserError, match="--overwrite"):
        report_data(dataset.path, out)
    with pytest.raises(UserError, match="does not replace"):
        report_data(dataset.path, dataset.path, overwrite=True)
