"""The report's files: what they say, and that they can be read anywhere."""

import base64
import io
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from browser import CHROMIUM, WITHOUT, measure_pages
from rich.console import Console

from lexalcm.errors import UserError
from lexalcm.evaluate.report.files import check_report_name, write_report
from lexalcm.evaluate.report.formatting import change, explanation, number, p_value, sentences
from lexalcm.evaluate.report.html_report import to_html
from lexalcm.evaluate.report.markdown import to_markdown
from lexalcm.evaluate.report.position_figure import Line, metric_by_position
from lexalcm.evaluate.report.report import Change, Difference, Estimate, Evaluation, Example, Row, Size
from lexalcm.evaluate.report.tables import tables

ABOUT = {"architecture": "base", "parameters": 5000, "generation": None}
METRICS = ["squared_l2", "contrastive_accuracy", "rouge_l"]


def scores(value, kind=Estimate, **more):
    return {
        "squared_l2": kind(value, value - 10, value + 10, **more),
        "contrastive_accuracy": kind(value / 1000, value / 1000 - 0.01, value / 1000 + 0.01, **more),
        "rouge_l": kind(value / 500, None, None, **more),
    }


@pytest.fixture
def evaluation():
    places = {place: scores(100 + number) for number, place in enumerate(["1", "2", "3-4"])}
    languages = ["all", "eng_Latn", "jpn_Jpan"]
    rows = [
        Row("runs/<a|b>", "model", {name: scores(120) for name in languages}, ABOUT, places),
        Row("repeat", "baseline", {name: scores(200) for name in languages}, {}, places),
    ]
    difference = Difference("runs/<a|b>", "repeat", {name: scores(-80, Change, p=0.004) for name in languages})
    return Evaluation(
        dataset={"path": "data/mine", "split": "validation", "batches": 1},
        settings={
            "mode": "teacher-forced", "free": None, "confidence": 0.95, "resamples": 500, "batch": 512,
            "batch_order": "random", "seed": 0, "lexalcm": "1.0",
        },
        metrics=METRICS,
        sizes={"all": Size(30, 1000), "eng_Latn": Size(29, 990), "jpn_Jpan": Size(1, 10)},
        position_sizes={place: Size(30, 100) for place in places},
        rows=rows,
        differences=[difference],
        comparisons=[],
        notes=["A note & more."],
        examples=[Example("doc <1>", "jpn_Jpan", ["彼は|言った。", "夜だ。"], ["そうだ。"], {"repeat": ["<b>彼</b>"]})],
    )  # fmt: skip


def test_numbers_have_their_unit_and_interval():
    assert number(Estimate(0.7998, 0.7742, 0.8229), "contrastive_accuracy") == "80.0% [77.4, 82.3]"
    assert number(Estimate(196.646, 190.36, 203.27), "squared_l2") == "196.6 [190.4, 203.3]"
    assert number(Estimate(0.2381, None, None), "rouge_l") == "23.8"
    assert number(None, "rouge_l") == "–"
    assert number(Estimate(0.0, 0.0, 1e-6), "squared_l2") == "0 [0, 0]"
    assert change(Change(0.058, 0.043, 0.074, 0.0004), "contrastive_accuracy") == "+5.8 points [+4.3, +7.4], p < 0.001"
    assert p_value(0.0349) == "p = 0.035"


def test_a_sentence_says_who_is_better_and_how_sure(evaluation):
    [line] = sentences(evaluation)
    assert line == (
        "runs/<a|b> is worse than 'repeat' in contrastive accuracy: -8.0 points [-9.0, -7.0], p = 0.004; "
        "squared L2 -80.00 [-90.00, -70.00] (better)"
    )


def test_groups_of_few_documents_are_named(evaluation):
    places = {"1": Size(30, 30), "2": Size(20, 20), "3-4": Size(7, 9)}
    few = "With fewer than 20 documents, intervals are too narrow and p-values too small"

    def warnings(**changes):
        return [line for line in explanation(replace(evaluation, **changes)) if "too narrow" in line]

    assert warnings(position_sizes=places) == [f"{few}: jpn_Jpan (1); number of preceding sentences 3-4 (7)."]
    assert warnings() == [f"{few}: jpn_Jpan (1)."]
    assert warnings(sizes={"all": Size(20, 99), "eng_Latn": Size(20, 99)}) == []
    assert warnings(sizes={"all": Size(19, 99), "eng_Latn": Size(19, 99)}, position_sizes=places) == [f"{few}."]


def test_markdown_tables_have_as_many_cells_in_every_line(evaluation):
    text = to_markdown(evaluation)
    assert "| runs/\\<a\\|b> | 120.0 [110.0, 130.0] | 12.0% [11.0, 13.0] | 24.0 |" in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        rows = [re.split(r"(?<!\\)\|", line) for line in table.splitlines()]
        assert {len(row) for row in rows} == {len(rows[0])}
    for piece in ("jpn_Jpan: 1 document, 10 targets", "p = 0.004", "| predictor | 1 | 2 | 3-4 |", "A note & more."):
        assert piece in text


def test_page_needs_nothing_else_and_keeps_names_as_text(evaluation):
    page = to_html(evaluation)
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert "<script" not in page
    assert "runs/&lt;a|b&gt;" in page
    assert "&lt;b&gt;彼&lt;/b&gt;" in page
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page
    assert page.count("<figure") == len(METRICS)
    assert "<small>better</small>" in page  # not by colour alone
    assert "彼は|言った。夜だ。" in page  # no space between sentences of a script that has none
    assert page.index("is worse than") < page.index("A note &amp; more")  # what was found comes first
    pictures = re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page)
    assert len(pictures) == 2 * len(METRICS)  # light and dark
    for picture in pictures:
        ElementTree.fromstring(base64.b64decode(picture))


def test_a_page_of_one_language_and_no_places_leaves_out_what_says_nothing(evaluation):
    sizes = {name: evaluation.sizes[name] for name in ("all", "eng_Latn")}
    page = to_html(replace(evaluation, sizes=sizes, position_sizes={}, examples=[], differences=[]))
    assert "All languages" not in page
    shown = Console(file=io.StringIO(), width=100)
    for table in tables(replace(evaluation, sizes=sizes)):
        shown.print(table)
    assert "all languages" not in shown.file.getvalue()
    assert "<figure" not in page
    assert "Examples" not in page
    assert page.count("<table") == 1


def test_lines_lie_where_their_numbers_are():
    line = Line(0, [Estimate(0.0, -1, 1), None, Estimate(10.0, 9, 11)])
    [axes] = metric_by_position([line], ["1", "2", "3-4"], "n", "a", 2).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "3-4"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("n", "a")
    [drawn] = axes.lines
    assert drawn.get_xydata().tolist() == [[0, 0], [2, 20]]
    [band] = axes.collections
    assert {tuple(point) for point in band.get_paths()[0].vertices} == {(0, -2), (0, 2), (2, 18), (2, 22)}


@pytest.mark.parametrize("values", [[0.5], [3.0, 3.0], [-1e-5, 1e-5], [0.0, 0.0], [1e9, -1e9]])
def test_any_numbers_can_be_drawn(values):
    line = Line(9, [Estimate(value, None, None) for value in values])
    [axes] = metric_by_position([line], [str(n) for n in range(len(values))], "n", "", 1).axes
    low, high = axes.get_ylim()
    assert all(low <= value <= high for value in values)


def test_files_are_what_their_names_say(evaluation, tmp_path):
    for name in ("report.json", "report.md", "report.HTML"):
        check_report_name(tmp_path / name)
        write_report(evaluation, tmp_path / name)
    assert (tmp_path / "report.json").read_text().startswith("{")
    assert (tmp_path / "report.md").read_text().startswith("# ")
    assert (tmp_path / "report.HTML").read_text().lower().startswith("<!doctype html>")
    with pytest.raises(UserError, match=r"must end in \.json"):
        check_report_name(tmp_path / "report.txt")


@pytest.mark.skipif(CHROMIUM is None, reason=WITHOUT)
def test_page_opens_in_a_browser_and_fits_a_phone(evaluation, tmp_path):
    measure = """
      const root = document.documentElement;
      const charts = [...document.querySelectorAll("figure img")].map(one => one.getBoundingClientRect().width);
      return {overflow: root.scrollWidth - root.clientWidth, narrowest: Math.min(...charts)};
    """
    name = "runs/a-run-with-a-rather-long-name-that-must-not-widen-the-page-on-a-small-telephone"
    rows = [replace(evaluation.rows[0], name=name), evaluation.rows[1]]
    page = to_html(replace(evaluation, rows=rows))
    found, log = measure_pages(tmp_path, {"evaluation": page}, (360, 1200), measure)
    assert "CONSOLE" not in log
    assert sorted(width for _, width in found) == [360, 1200]
    for (_, width), page in found.items():
        assert page["overflow"] <= 0, width
        assert page["narrowest"] > 250
