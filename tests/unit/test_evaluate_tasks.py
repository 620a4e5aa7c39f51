"""Tasks: sources continued, and compared with references."""

import gc
import json

import numpy as np
import pytest
from evaluation_workspace import make_text_dataset, make_text_model
from test_evaluate_free import watch_models

from lexalcm.data.format.dataset import Dataset
from lexalcm.errors import CodecError, ConfigError, DataError, UserError
from lexalcm.evaluate.metrics.metric import task_metrics
from lexalcm.evaluate.metrics.scored_example import score_examples
from lexalcm.evaluate.metrics.text_similarity import chrf, rouge_l
from lexalcm.evaluate.run import tasks
from lexalcm.evaluate.run.examples import TaskExample, read_examples
from lexalcm.evaluate.run.tasks import LAST, LEAD, evaluate_task
from lexalcm.evaluate.settings import EvaluationSettings, FreeRunning
from lexalcm.generate.text import TextModel


class Corners:
    """A codec whose sentences lie at the corners that their first letters name."""

    dim = 4

    def encode(self, sentences, lang):
        return np.array([np.eye(4)["abcd".index(sentence[0].lower())] for sentence in sentences], dtype=np.float32)


def scores_of(source, reference, written):
    example = TaskExample("1", "eng_Latn", source, reference)
    [values] = np.moveaxis(score_examples(Corners(), [example], [written], task_metrics())[..., 0], 2, 0)
    return {name: tuple(values[:, number]) for number, name in enumerate(task_metrics())}


def test_metrics_of_an_example_worked_by_hand():
    found = scores_of(["D one."], ["A x y.", "B z."], ["A x y.", "A p q r s t.", "C w."])
    assert found["concept_precision"] == pytest.approx((2 / 3, 1))  # two of three sentences are at a corner of theirs
    assert found["concept_recall"] == (0.5, 1)  # the corner A is met, B is not
    assert found["concept_f1"] == pytest.approx((2 * (2 / 3) * 0.5 / (2 / 3 + 0.5), 1))
    assert found["coherence"] == (1, 3)  # D-A, A-A, A-C
    assert found["repetition"] == (0, 3)  # 4-grams of "a p q r s t"
    assert found["length_ratio"] == (11, 5)
    assert found["rouge_l"] == pytest.approx((2 * 3 / (11 + 5), 1))
    assert found["chrf"][0] == pytest.approx(chrf("A x y. A p q r s t. C w.", "A x y. B z."))


def test_a_text_that_ends_at_once_scores_nothing():
    found = scores_of(["D one."], ["A x."], [])
    assert {name: value for name, (value, _) in found.items()} == dict.fromkeys(task_metrics(), 0)
    assert found["coherence"] == (0, 0)


def write(file, *records):
    file.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return file


RECORDS = [
    {"id": "first", "source": "The cat sees the dog in the garden. The dog loses the letter in the river.",
     "reference": "The cat finds the letter in the garden."},
    {"source": "猫が走る。犬が見える。", "reference": "川が光っている。", "lang": "ja", "note": 7},
    {"source": "The train carries the teacher in the song.", "reference": "The song follows the train in the river."},
]  # fmt: skip


def test_examples_are_segmented_and_named(tmp_path):
    first, second, third = read_examples(write(tmp_path / "task.jsonl", *RECORDS))
    assert (first.id, first.lang, len(first.source), len(first.reference)) == ("first", "eng_Latn", 2, 1)
    assert (second.id, second.lang, second.source) == ("2", "jpn_Jpan", ["猫が走る。", "犬が見える。"])
    assert third.id == "3"
    with (tmp_path / "task.jsonl").open("a") as file:
        file.write(json.dumps({**RECORDS[0], "id": "half \ud83d"}) + "\n")
    assert read_examples(tmp_path / "task.jsonl")[3].id == "half ?"
    assert len(read_examples(tmp_path / "task.jsonl", limit=2)) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ('{"source": "A text."}', "line 2: the field reference must be a string"),
        ('{"source": 3, "reference": "A text."}', "line 2: the field source must be a string"),
        ("[]", "line 2: the field source must be a string"),
        ('{"source": " ", "reference": "A text."}', "line 2: source is empty"),
        (
            '{"source": "A text.", "reference": "A text.", "lang": "Klingonish"}',
            "line 2: unknown language 'Klingonish'",
        ),
        ('{"source": "A text.", "reference": "A text.", "lang": 5}', "line 2: lang must be"),
        ("[" * 100_000, "line 2: not JSON"),
    ],
)
def test_wrong_lines_are_named(tmp_path, line, message):
    file = write(tmp_path / "task.jsonl", RECORDS[0])
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(DataError, match=message):
        read_examples(file)


def test_a_script_that_leaves_the_language_open_is_asked_about(tmp_path):
    file = write(tmp_path / "task.jsonl", {"source": "Кошка видит собаку.", "reference": "Собака."})
    with pytest.raises(DataError, match="line 1: the text is in Cyrillic script: give its language"):
        read_examples(file)


def test_no_file_and_no_example_are_said(tmp_path):
    with pytest.raises(DataError, match="cannot read"):
        read_examples(tmp_path / "nowhere.jsonl")
    with pytest.raises(DataError, match="has no example"):
        read_examples(write(tmp_path / "empty.jsonl"))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    dataset = make_text_dataset(folder / "data")
    make_text_model(folder / "base", dataset, max_sentences=3, repetition=None)
    write(folder / "task.jsonl", *RECORDS)
    return folder


def test_a_model_is_scored_by_what_it_writes_beside_the_sources_beginning(workspace):
    evaluation = evaluate_task([workspace / "base"], workspace / "task.jsonl", EvaluationSettings(resamples=100))
    assert [row.name for row in evaluation.rows] == [str(workspace / "base"), LEAD, LAST]
    assert {name: size.documents for name, size in evaluation.sizes.items()} == {
        "all": 3,
        "eng_Latn": 2,
        "jpn_Jpan": 1,
    }
    writer = TextModel.open(workspace / "base")
    expected = []
    for record in RECORDS:
        prompt = writer.prompt(record["source"], writer.options(), lang="jpn_Jpan" if "lang" in record else "eng_Latn")
        text = [sentence.text for sentence in writer.write(prompt, writer.options())]
        expected.append(rouge_l(" ".join(text), record["reference"]))
    assert evaluation.rows[0].scores["all"]["rouge_l"].value == pytest.approx(np.mean(expected))
    lead = [rouge_l(record["source"], record["reference"]) for record in RECORDS]
    assert evaluation.rows[1].scores["all"]["rouge_l"].value == pytest.approx(np.mean(lead))
    assert evaluation.examples[0].written[LAST] == ["The dog loses the letter in the river."]
    assert evaluation.position_sizes == {}
    json.dumps(evaluation.to_json(), allow_nan=False)


def test_settings_that_a_task_does_not_have_are_errors(workspace, tmp_path):
    task = workspace / "task.jsonl"
    for settings in (EvaluationSettings(free=FreeRunning()), EvaluationSettings(metrics=("cosine",))):
        with pytest.raises(ConfigError, match="omit --free, --metrics and --lm"):
            evaluate_task([workspace / "base"], task, settings)
    other = make_text_model(tmp_path / "other", Dataset.open(workspace / "data"))
    config = json.loads((other / "config.json").read_text())
    config["codec"]["fingerprint"] = "1" * 64
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(CodecError, match="another fit of the codec lsa"):
        evaluate_task([workspace / "base", other], task)


def test_all_models_of_a_task_are_checked_before_the_first_one_writes(workspace, tmp_path, monkeypatch):
    other = make_text_model(tmp_path / "other", Dataset.open(workspace / "data"))
    (other / "special_concepts.safetensors").unlink()
    monkeypatch.setattr(tasks, "load_model", lambda folder: pytest.fail("a model was loaded"))
    with pytest.raises(UserError, match=f"{other} has no special_concepts"):
        evaluate_task([workspace / "base", other], workspace / "task.jsonl")


def test_one_model_is_in_memory_at_a_time(workspace, monkeypatch):
    found = watch_models(tasks, monkeypatch)
    gc.disable()
    try:
        evaluate_task([workspace / "base"] * 2, workspace / "task.jsonl", EvaluationSettings(resamples=100))
    finally:
        gc.enable()
    assert found == [[], [False]]
