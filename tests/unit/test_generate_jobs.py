"""Documents in, lines of JSON out: what an interruption leaves is gone on with, and nothing is mixed."""

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from text_model_folder import make_text_model

from lexalcm.codec.options import CodecOptions, DecodingOptions
from lexalcm.errors import UserError
from lexalcm.generate.batch.jobs import Input, Job, job_settings, write_documents, write_file
from lexalcm.generate.batch.output_log import OutputLog
from lexalcm.generate.prompts.documents import Defaults, read_input_documents
from lexalcm.generate.text import TextModel
from lexalcm.model.storage.fingerprint import model_fingerprint

DOCUMENTS = [
    {"text": "We must do more for our schools."},
    {"id": "second", "text": "Peace. It is near.", "seed": 9},
    {"sentences": ["The wind blew.", "Nobody slept.", "It was late."], "lang": "en"},
    {"text": "そのころわたくしは、モリーオ市の博物局に勤めて居りました。", "note": "passed over"},
    {"id": 5, "text": "Morning came.", "to": "Japanese"},
]


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    return TextModel.open(make_text_model(tmp_path_factory.mktemp("jobs") / "model"))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n\n".join(json.dumps(one, ensure_ascii=False) for one in DOCUMENTS), encoding="utf-8")
    return path


def job(writer: TextModel, batch: int = 2, samples: int = 1, **changes: Any) -> Job:
    options = writer.options(**{"max_sentences": 2, **changes})
    return Job(options, CodecOptions(), Defaults(seed=3, max_prompt=options.max_prompt), batch=batch, samples=samples)


def run(writer: TextModel, prompts: Path, output: Path, made: Job, **more: Any) -> tuple[int, int]:
    return write_file(writer, Input(prompts, made.defaults, writer.codec), output, made, **more)


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_document_is_answered_in_order(writer: TextModel, prompts: Path, tmp_path: Path) -> None:
    made = job(writer)
    assert run(writer, prompts, tmp_path / "out.jsonl", made) == (5, 0)
    answers = records(tmp_path / "out.jsonl")
    assert [one["id"] for one in answers] == ["1", "second", "5", "7", "5"]  # lines, where none is given
    assert [one["seed"] for one in answers] == [3, 9, 3, 3, 3]
    assert [(one["lang"], one["to"]) for one in answers][2:] == [
        ("eng_Latn", "eng_Latn"),
        ("jpn_Jpan", "jpn_Jpan"),
        ("eng_Latn", "jpn_Jpan"),
    ]
    assert answers[2]["prompt"] == DOCUMENTS[2]["sentences"]
    for answer in answers:
        prompt = writer.prompt(
            answer["prompt"], made.options, lang=answer["lang"], to=answer["to"], seed=answer["seed"]
        )
        alone = writer.write(prompt, made.options)
        assert [one["text"] for one in answer["sentences"]] == [str(one) for one in alone]
        assert answer["stop"] == alone.stop


def test_statistics_are_of_what_the_model_made(writer: TextModel, prompts: Path, tmp_path: Path) -> None:
    made = job(writer, reencode=True)
    run(writer, prompts, tmp_path / "out.jsonl", made)
    answer = records(tmp_path / "out.jsonl")[0]
    continuation = writer.write(writer.prompt(answer["prompt"], made.options, seed=3), made.options)
    before = continuation.embedded[-1].double().numpy()
    for sentence, reported in zip(continuation, answer["sentences"], strict=True):
        concept = sentence.concept.double().numpy()
        lengths = (concept**2).sum() ** 0.5, (before**2).sum() ** 0.5
        expected = {
            "norm": lengths[0],
            "mean": concept.sum() / len(concept),
            "std": ((concept - concept.mean()) ** 2).mean() ** 0.5,
            "cosine_to_previous": (concept @ before) / (lengths[0] * lengths[1]),
            "l2_to_previous": ((concept - before) ** 2).sum() ** 0.5,
        }
        assert {name: reported[name] for name in expected} == pytest.approx(expected, abs=1e-5)
        before = writer.codec.encode([sentence.text], "eng_Latn")[0].astype("float64")


def test_samples_are_the_texts_of_the_seeds(writer: TextModel, prompts: Path, tmp_path: Path) -> None:
    run(writer, prompts, tmp_path / "samples.jsonl", job(writer, samples=3))
    made = job(writer, batch=5)
    for answer in records(tmp_path / "samples.jsonl"):
        start = 9 if answer["id"] == "second" else 3
        assert [one["seed"] for one in answer["samples"]] == [start, start + 1, start + 2]
        for sample in answer["samples"]:
            prompt = writer.prompt(
                answer["prompt"], made.options, lang=answer["lang"], to=answer["to"], seed=sample["seed"]
            )
            texts = [one["text"] for one in sample["sentences"]]
            assert texts == [str(one) for one in writer.write(prompt, made.options)]


@pytest.mark.parametrize(("samples", "step"), [(1, 173), (2, 977)])
def test_cut_at_any_byte_the_file_becomes_whole_again(
    writer: TextModel, prompts: Path, tmp_path: Path, samples: int, step: int
) -> None:
    """Every length that a kill may leave, in steps; lines are torn, batches half done."""
    whole, cut, made = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl", job(writer, samples=samples)
    run(writer, prompts, whole, made)
    shutil.copy(f"{whole}.settings.json", f"{cut}.settings.json")
    content = whole.read_bytes()
    ends = [place for place, byte in enumerate(content) if byte == ord("\n")]
    for length in sorted({0, 1, *range(0, len(content), step), *ends, *(end + 1 for end in ends)}):
        cut.write_bytes(content[:length])
        total, before = run(writer, prompts, cut, made)
        assert (total, before) == (5, content[:length].count(b"\n"))
        assert cut.read_bytes() == content


def test_what_is_finished_is_not_made_again(
    writer: TextModel, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = job(writer)
    run(writer, prompts, tmp_path / "out.jsonl", made)
    monkeypatch.setattr(writer, "write_all", lambda *_: pytest.fail("made again"))
    assert run(writer, prompts, tmp_path / "out.jsonl", made) == (5, 5)


def test_lines_are_on_disk_when_the_next_batch_begins(
    writer: TextModel, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    write_all = writer.write_all

    def watched(*arguments: Any) -> Any:
        seen.append((tmp_path / "out.jsonl").read_bytes().count(b"\n"))
        return write_all(*arguments)

    monkeypatch.setattr(writer, "write_all", watched)
    run(writer, prompts, tmp_path / "out.jsonl", job(writer))
    assert seen == [0, 2, 4]


def test_other_settings_do_not_go_on(writer: TextModel, prompts: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    made = job(writer)
    run(writer, prompts, output, made)
    content = output.read_bytes()
    others = {
        "another steps: 3, not 5": job(writer, steps=5),
        "another samples: 1, not 2": job(writer, samples=2),
        "another seed: 3, not 4": Job(made.options, CodecOptions(), Defaults(seed=4, max_prompt=256)),
        "another beam: 5, not 1": Job(made.options, CodecOptions(decoding=DecodingOptions(beam=1)), made.defaults),
    }
    for message, other in others.items():
        with pytest.raises(UserError, match=message):
            run(writer, prompts, output, other)
    prompts.write_text('{"text": "Something else."}')
    with pytest.raises(UserError, match="another input:"):
        run(writer, prompts, output, made)
    assert output.read_bytes() == content
    assert run(writer, prompts, output, made, overwrite=True) == (1, 0)
    assert len(records(output)) == 1


def test_another_batch_or_device_may_go_on(writer: TextModel, prompts: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    run(writer, prompts, output, job(writer))
    whole = records(output)
    output.write_bytes(output.read_bytes()[:-1])
    other = job(writer, batch=7)
    run(writer, prompts, output, Job(other.options, CodecOptions(device="cpu", batch=64), other.defaults, batch=7))
    assert [one["sentences"][0]["text"] for one in records(output)] == [one["sentences"][0]["text"] for one in whole]


def test_the_input_is_not_written_over(writer: TextModel, prompts: Path) -> None:
    content = prompts.read_bytes()
    with pytest.raises(UserError, match="is the input"):
        run(writer, prompts, prompts, job(writer), overwrite=True)
    assert prompts.read_bytes() == content


def test_a_model_trained_on_is_another_model(tmp_path: Path) -> None:
    folder = make_text_model(tmp_path / "model")
    before = model_fingerprint(folder)
    assert model_fingerprint(Path(shutil.copytree(folder, tmp_path / "copy"))) == before
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert model_fingerprint(folder) != before


def test_files_that_are_not_ours_stay(tmp_path: Path) -> None:
    (tmp_path / "diary.jsonl").write_text("Dear diary\n")
    with pytest.raises(UserError, match="exists already"):
        OutputLog(tmp_path / "diary.jsonl", {})
    assert (tmp_path / "diary.jsonl").read_text() == "Dear diary\n"
    with pytest.raises(UserError, match="no folder"):
        OutputLog(tmp_path / "nowhere" / "out.jsonl", {})
    with pytest.raises(UserError, match="is a folder"):
        OutputLog(tmp_path, {})


def test_two_writers_are_kept_apart(tmp_path: Path) -> None:
    with OutputLog(tmp_path / "out.jsonl", {"seed": 1}) as log:
        with pytest.raises(UserError, match="another lcm infer is writing"):
            OutputLog(tmp_path / "out.jsonl", {"seed": 1}, overwrite=True)
        log.append([{"id": "1"}])
    with OutputLog(tmp_path / "out.jsonl", {"seed": 1}) as log:
        assert log.finished == 1


WRONG_LINES = {
    "{": "not valid JSON",
    "[1]": "expected a JSON object",
    "{}": "an empty object",
    '{"txt": "Peace."}': "no text and no sentences, only txt",
    '{"text": 3}': "text must be a text",
    '{"sentences": "Peace."}': "sentences must be a list",
    '{"sentences": ["...", ""]}': "no sentence",
    '{"text": ""}': "no sentence",
    '{"text": "Peace.", "seed": -1}': "seed -1",
    '{"text": "Peace.", "seed": true}': "seed True",
    '{"text": "Peace.", "seed": 9223372036854775808}': "seed 9223372036854775808",
    "[" * 100_000: "not valid JSON",
    '{"text": "Peace.", "lang": "klingon"}': "unknown language",
    '{"text": "Peace.", "lang": 3}': "lang must be",
    '{"text": "It goes on. It goes on. It goes on."}': "max_prompt is 2",
    '"\udcff': "not UTF-8",
}


@pytest.mark.parametrize("line", WRONG_LINES, ids=lambda line: line[:40])
def test_a_wrong_line_is_named_before_anything_is_made(line: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b'{"text": "Good."}\n\n' + line.encode("utf-8", "surrogateescape") + b"\n")
    with pytest.raises(UserError, match=WRONG_LINES[line]) as raised:
        Input(path, Defaults(max_prompt=2)).check()
    assert str(raised.value).startswith(f"{path}:3: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("nothing", ["null", '""', "NaN", "[]"])
def test_fields_that_say_nothing_are_not_there(nothing: str) -> None:
    line = f'{{"id": {nothing}, "text": "Peace.", "sentences": {nothing}, "lang": {nothing}, "seed": {nothing}}}'
    (found,) = read_input_documents([line.encode()], "prompts.jsonl", Defaults(seed=3))
    (plain,) = read_input_documents([b'{"text": "Peace."}'], "prompts.jsonl", Defaults(seed=3))
    assert found == plain


@pytest.mark.parametrize("name", ["empty.jsonl", "empty.txt"])
@pytest.mark.parametrize("content", ["", "\n  \n"])
def test_a_file_without_a_document_is_a_mistake(writer: TextModel, tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=f"{name} has no document: give one a line"):
        run(writer, tmp_path / name, tmp_path / "out.jsonl", job(writer))
    assert not (tmp_path / "out.jsonl").exists()


def test_a_language_that_the_codec_lacks_is_named_with_its_line(writer: TextModel) -> None:
    documents = read_input_documents([b'{"text": "Hallo Welt.", "lang": "de"}'], "prompts.jsonl", Defaults())
    with pytest.raises(UserError, match=r"prompts\.jsonl:1: .*no sentence in deu_Latn"):
        write_documents(writer, documents, job(writer), lambda _results: None)


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ({"text": "Hallo.", "lang": "de"}, "no sentence in deu_Latn"),
        ({"text": "Hello.", "to": "fr"}, "no sentence in fra_Latn"),
        ({"text": "Привет."}, "in Cyrillic script"),
    ],
)
def test_a_language_in_the_last_line_is_said_before_the_first_is_answered(
    writer: TextModel, tmp_path: Path, last: dict[str, str], message: str
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in [{"text": "Peace."}] * 6 + [last]))
    made = job(writer)
    with pytest.raises(UserError, match=rf"prompts\.jsonl:7: .*{message}"):
        run(writer, path, tmp_path / "out.jsonl", made)
    assert not (tmp_path / "out.jsonl").exists()


def test_half_a_character_is_no_reason_to_fail_when_it_is_written(writer: TextModel, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"id": "\ud800 a", "text": "Peace \udc00 is near."}), encoding="ascii")
    run(writer, path, tmp_path / "out.jsonl", job(writer))
    [answer] = records(tmp_path / "out.jsonl")
    assert (answer["id"], answer["prompt"]) == ("? a", ["Peace \ufffd is near."])


def test_plain_text_has_a_document_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\ufeffOne thing. Another.\n\n{ is a brace.\n".encode()
    (tmp_path / "prompts.txt").write_bytes(text)
    from_file = list(Input(tmp_path / "prompts.txt", Defaults()).documents())
    assert [(one.id, one.prompt.sentences) for one in from_file] == [
        ("1", ("One thing.", "Another.")),
        ("3", ("{ is a brace.",)),
    ]
    stdin = io.TextIOWrapper(io.BytesIO(text))
    monkeypatch.setattr("sys.stdin", stdin)
    source = Input("-", Defaults())
    assert source.check()[0] == 2  # reads all of it, and still has it
    assert [one.prompt for one in source.documents()] == [one.prompt for one in from_file]


def test_standard_input_is_read_as_it_comes(writer: TextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first answer is there before the second line is."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe, os.fdopen(writing, "wb", buffering=0) as typist:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(pipe.raw)))
        typist.write(b'{"text": "Peace."}\n')
        results: list[Any] = []

        def answered(lines: Any) -> None:
            results.extend(lines)
            if len(results) == 1:
                typist.write(b'{"text": "War."}\n')
                typist.close()

        write_documents(writer, Input("-", Defaults()).documents(), job(writer, batch=1), answered)
    assert [one["prompt"] for one in results] == [["Peace."], ["War."]]


def test_settings_are_what_lines_depend_on(writer: TextModel) -> None:
    settings = job_settings(writer, job(writer), "hash")
    assert set(type(writer.options()).model_fields) <= settings.keys()
    assert {"model", "dtype", "input", "seed", "samples", "lang", "to", "beam"} <= settings.keys()
    assert {"batch", "device"}.isdisjoint(settings)
