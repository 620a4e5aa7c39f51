import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from lexalcm.data.progress import silent
from lexalcm.errors import DataError, UserError
from lexalcm.visualize import data_statistics as statistics
from lexalcm.visualize.data_report import report_data
from lexalcm.visualize.data_source import choose_documents, open_source

DIM = 6
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FIGURES = ["components", "coordinate_spread", "document_lengths", "norms", "sentence_lengths", "similarities"]


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


def test_neighbours_follow_one_another_and_random_pairs_share_only_the_language():
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
    assert pairs.neighbours == pytest.approx(np.ones(16))
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


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium to open the page in: apt-get install chromium")
@pytest.mark.parametrize("width", [360, 1200])
def test_page_opens_in_a_browser_without_an_error_and_fits_its_width(report, tmp_path, width):
    # The page runs in a frame of the width, measures itself, and tells the page around it, which --dump-dom prints.
    measure = """<script>
    addEventListener("load", () => {
      const root = document.documentElement;
      const sizes = [...document.images].map(image => image.naturalWidth + "x" + image.naturalHeight);
      parent.postMessage(JSON.stringify([sizes, root.scrollWidth - root.clientWidth]), "*");
    });
    </script></body>"""
    page = (report[0] / "index.html").read_text(encoding="utf-8")
    (tmp_path / "measured.html").write_text(page.replace("</body>", measure), encoding="utf-8")
    (tmp_path / "frame.html").write_text(
        f"""<pre id="found"></pre><script>
        addEventListener("message", event => {{ document.getElementById("found").textContent = event.data; }});
        </script><iframe src="measured.html" style="width:{width}px;height:900px;border:0"></iframe>""",
        encoding="utf-8",
    )
    result = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            "--enable-logging=stderr",
            "--virtual-time-budget=20000",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            (tmp_path / "frame.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in result.stderr
    found = re.search(r'<pre id="found">(.*?)</pre>', result.stdout).group(1)
    assert json.loads(found) == [["1120x700"] * len(FIGURES), 0]
