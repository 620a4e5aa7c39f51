"""SONAR on the command line: from text to a data set, a model, and text again, on the tiny reference weights."""

import json
from pathlib import Path

import numpy as np
import pytest

from lexalcm.data.format.dataset import Dataset

pytest.importorskip("transformers", reason="the extra hf is not installed")
sentencepiece = pytest.importorskip("sentencepiece", reason="the extra hf is not installed")

WEIGHTS = Path(__file__).parents[1] / "data" / "reference_sonar"
TEXT = "The sun rises over the hills. A river runs through the town. Nobody saw the boat return.\n\n" * 8
CODEC = ("weights=" + str(WEIGHTS), "heads=4", "max_seq_len=64", "languages=[eng_Latn,fra_Latn,jpn_Jpan]")
OPTIONS = [part for option in CODEC for part in ("--codec-option", option)]
QUICK = ("--beam", 1, "--max-tokens", 12)


def tokens(sentence):
    """Of a sentence in source form, counted by SentencePiece itself."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(WEIGHTS / "sentencepiece.model"))
    return len(pieces.encode(sentence)) + 2


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LEXALCM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LEXALCM_SONAR_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("LEXALCM_SONAR", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path


def test_from_text_to_text(lcm, workspace):
    built = lcm("data", "build", "text.txt", "--out", "d", "--codec", "sonar", *OPTIONS, "--special", "narrator=Says:")
    assert built.code == 0, built.err
    assert "codec sonar" in built.out
    assert 'narrator "Says:"' in built.out
    assert lcm("bootstrap", "--data", "d", "--out", "m").code == 0
    assert "reencode" not in json.loads(Path("m/generation_config.json").read_text())
    assert "[[End of Text.]]" in lcm("verify", "model", "m", "--json").out

    written = lcm("infer", "The sun rises.", "-m", "m", "-n", 2, "--steps", 2, "--lang", "French", *QUICK, "--json")
    assert written.code == 0, written.err
    result = json.loads(written.out)
    assert result["lang"] == "fra_Latn"
    assert len(result["sentences"]) >= 1
    other = lcm("infer", "The sun rises.", "-m", "m", "-n", 1, "--steps", 2, "--codec", "lsa")
    assert (other.code, other.out) == (2, "")
    assert "this was made with the codec sonar, which lsa does not implement" in other.err
    unknown = lcm("infer", "Die Sonne.", "-m", "m", "--lang", "German")
    assert unknown.code == 2
    assert "the nearest are" in unknown.err


def test_one_language_in_another_out(lcm, workspace):
    """What the model made is the same, whichever language it is written in; nothing is read on from the words."""
    rows = [{"text": TEXT.partition("\n")[0], "lang": lang} for lang in ("eng_Latn", "fra_Latn", "jpn_Jpan") * 4]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert lcm("data", "build", "rows.jsonl", "--out", "d", "--codec", "sonar", *OPTIONS).code == 0
    split = Dataset.open("d").split()
    stored = {split.document(i)["lang"]: split.embeddings(i) for i in range(len(split))}
    assert set(stored) == {"eng_Latn", "fra_Latn", "jpn_Jpan"}
    assert not np.array_equal(stored["eng_Latn"], stored["jpn_Jpan"])
    assert lcm("bootstrap", "--data", "d", "--out", "m").code == 0

    def infer(*options):
        result = lcm("infer", "The sun rises.", "-m", "m", "-n", 2, "--steps", 2, *QUICK, *options, "--json")
        assert result.code == 0, result.err
        return json.loads(result.out)

    crossed = infer("--lang", "Japanese", "--to", "en", "--no-reencode")
    assert (crossed["lang"], crossed["to"]) == ("jpn_Jpan", "eng_Latn")
    same = infer("--lang", "Japanese", "--no-reencode")
    assert (same["lang"], same["to"]) == ("jpn_Jpan", "jpn_Jpan")
    assert [s["norm"] for s in crossed["sentences"]] == [s["norm"] for s in same["sentences"]]
    unknown = lcm("infer", "The sun rises.", "-m", "m", "--to", "German")
    assert unknown.code == 2
    assert "the nearest are" in unknown.err


def test_verify_codec_shows_what_did_it(lcm, workspace):
    found = lcm("verify", "codec", "--codec", "sonar-hf", *OPTIONS, *QUICK, "--codec-dtype", "bf16", "--json")
    result = json.loads(found.out)
    empty = sum(not trip["decoded"].strip() for trip in result["round_trips"])  # random weights write what they like
    assert result["problems"] == ([f"{empty} sentences were decoded to nothing"] if empty else [])
    assert (found.code, result["ok"]) == ((1, False) if empty else (0, True))
    assert result["cut"] == 0
    assert result["description"] == "sonar-hf on cpu in bf16, Transformers with SDPA"
    assert [trip["lang"] for trip in result["round_trips"]] == ["eng_Latn"] * 2 + ["fra_Latn"] * 2 + ["jpn_Jpan"] * 2
    assert result["encoded_per_second"] > 0
    assert -1 <= result["similarity"] <= 1
    shown = lcm("verify", "codec", *OPTIONS, *QUICK, "--lang", "ja")
    assert "Japanese" in shown.out
    assert "sentences/s embedded" in shown.out


@pytest.mark.parametrize(
    ("written", "code", "problems"), [("Words.", 0, []), (" ", 1, ["6 sentences were decoded to nothing"])]
)
def test_verify_codec_fails_where_sentences_come_back_empty(lcm, workspace, monkeypatch, written, code, problems):
    write = "lexalcm.codec.sonar.decoder.SonarDecoder.write"
    monkeypatch.setattr(write, lambda self, vectors, *_: [written] * len(vectors))
    found = lcm("verify", "codec", "--codec", "sonar-hf", *OPTIONS, "--json")
    result = json.loads(found.out)
    assert (found.code, result["ok"], result["problems"]) == (code, code == 0, problems)


def test_verify_codec_counts_what_was_cut(lcm, workspace):
    command = ("verify", "codec", *OPTIONS, "--codec-option", "max_seq_len=8", *QUICK, "--lang", "en")
    result = json.loads(lcm(*command, "--json").out)
    embedded = [trip[text] for trip in result["round_trips"] for text in ("sentence", "decoded")]
    assert result["cut"] == sum(tokens(text) > 10 for text in embedded) >= 2
    assert f"truncated: {result['cut']} sentences were longer than the codec reads" in lcm(*command).out


def test_verify_codec_of_a_data_set_without_choices(lcm, workspace):
    assert lcm("data", "build", "text.txt", "--out", "d").code == 0
    found = lcm("verify", "codec", "d")
    assert found.code == 0, found.err
    assert "lsa of d" in found.out
    beams = lcm("verify", "codec", "d", "--beam", 2)
    assert beams.code == 2
    assert "lsa does not have the option beam" in beams.err


def test_no_weights_is_one_line(lcm, workspace):
    found = lcm("verify", "codec", "--codec", "sonar-hf")
    assert found.code == 2
    assert "sonar_text_encoder.pt" in found.err
    assert "Traceback" not in found.err


def test_how_the_codec_is_run_is_no_property_of_the_data(lcm, workspace):
    built = lcm("data", "build", "text.txt", "--out", "a", "--codec", "sonar", *OPTIONS, "--dtype", "float32")
    assert built.code == 0, built.err
    run = ("--codec-dtype", "bf16", "--codec-device", "cpu", "--codec-batch", 64)
    other = lcm("data", "embed", "text.txt", "--out", "b", "--codec", "sonar", *OPTIONS, *run, "--dtype", "float32")
    assert other.code == 0, other.err
    one, two = Dataset.open("a"), Dataset.open("b")
    assert one.manifest.codec == two.manifest.codec
    assert one.manifest.build["codec_options"] == two.manifest.build["codec_options"]
    exact, rounded = (dataset.split().embeddings(0) for dataset in (one, two))
    assert not np.array_equal(exact, rounded)
    assert np.allclose(exact, rounded, atol=0.05 * np.abs(exact).max())
    again = lcm("data", "embed", "text.txt", "--out", "b", "--codec", "sonar", *OPTIONS, "--dtype", "float32")
    assert "is complete already" in again.err


def test_an_evaluation_runs_the_codec_as_told(lcm, workspace, monkeypatch):
    """Text is continued freely; by default at beam 5 in fp32, and 32 sentences at once."""
    assert lcm("data", "build", "text.txt", "--out", "d", "--codec", "sonar", *OPTIONS, "--validation", 0.5).code == 0
    assert lcm("bootstrap", "--data", "d", "--out", "m").code == 0
    seen = set()

    def search(self, embeddings, lang, options):
        seen.add((options.beam, str(self.module.dtype), self.batch_sentences(options.beam)))
        return [[*self.tokenizer.prompt(lang), self.tokenizer.eos]] * len(embeddings)

    monkeypatch.setattr("lexalcm.codec.sonar.decoder.SonarDecoder.search", search)
    evaluate = ("evaluate", "m", "--data", "d", "--free", "--prefix", 1, "-n", 1, "--steps", 1, "--baselines", "none")
    found = lcm(*evaluate, "--beam", 2, "--codec-dtype", "bf16", "--codec-batch", 256, "--json")
    assert found.code == 0, found.err
    assert seen == {(2, "torch.bfloat16", 2)}
    seen.clear()
    assert lcm(*evaluate, "--json").code == 0
    assert seen == {(5, "torch.float32", 32)}
    Path("task.jsonl").write_text(json.dumps({"source": "The sun rises.", "reference": "It sets.", "lang": "en"}))
    seen.clear()
    done = lcm("evaluate", "m", "--task", "task.jsonl", "-n", 1, "--steps", 1, "--beam", 3, "--codec-dtype", "bf16")
    assert done.code == 0, done.err
    assert {(beam, dtype) for beam, dtype, _ in seen} == {(3, "torch.bfloat16")}


@pytest.mark.parametrize("choice", [("--codec-device", "cpu"), ("--codec-dtype", "fp16"), ("--codec-batch", 64)])
def test_the_sample_is_made_as_told(lcm, workspace, choice):
    made = lcm("data", "sample", *choice)
    assert made.code == 2
    assert f"lsa does not have the option {choice[0].rpartition('-')[2]}" in made.err


def test_a_codec_without_choices_and_a_device_that_is_not_there(lcm, workspace):
    for command in ("build", "embed"):
        chosen = lcm("data", command, "text.txt", "--out", f"a-{command}", "--codec-dtype", "fp16")
        assert chosen.code == 2
        assert "lsa does not have the option dtype" in chosen.err
    missing = lcm("data", "build", "text.txt", "--out", "b", "--codec", "sonar", *OPTIONS, "--codec-device", "cuda:77")
    assert missing.code == 2
    assert "'cuda:77' cannot be used" in missing.err


# mistakes are found before a corpus is segmented


@pytest.fixture
def unread(workspace, monkeypatch):
    """Text that is not to be segmented."""
    monkeypatch.setattr(
        "lexalcm.data.build.segmented_store.SegmentedStore.write",
        lambda *_, **__: pytest.fail("the text was segmented"),
    )
    return workspace


@pytest.mark.parametrize("command", ["build", "embed"])
@pytest.mark.parametrize(
    ("codec", "message"),
    [
        (("sonar", *OPTIONS, "--codec-device", "cuda:77"), "the device 'cuda:77' cannot be used"),
        (("sonar-hf",), "sonar_text_encoder.pt"),  # no weights
        (("sonar", "--codec-option", "weights=/nowhere"), "there are no SONAR weights in /nowhere"),
        (("sonar", *OPTIONS, "--codec-option", "heads=7"), "cannot be divided among 7 heads"),
        (("sonar", "--codec-option", "weight=x"), "codec.weight: did you mean weights"),
        (("lsa", "--codec-option", "dmi=3"), "codec.dmi: did you mean dim"),
        (("lsa", "--codec-dtype", "fp16"), "lsa does not have the option dtype"),
    ],
)
def test_a_codec_that_cannot_be_had_is_said_before_text_is_read(lcm, unread, command, codec, message):
    found = lcm("data", command, "text.txt", "--out", "d", "--codec", *codec)
    assert (found.code, message in found.err, found.err.count("\n")) == (2, True, 1), found.err
    assert not Path("d").exists()  # nothing is begun that a corrected line would have to agree with


def test_the_codec_of_a_folder_is_tried_too(lcm, workspace, monkeypatch):
    assert lcm("data", "build", "text.txt", "--out", "d", "--codec", "sonar", *OPTIONS).code == 0
    monkeypatch.setattr(
        "lexalcm.data.build.segmented_store.SegmentedStore.write",
        lambda *_, **__: pytest.fail("the text was segmented"),
    )
    again = ("data", "build", "text.txt", "--out", "e", "--codec", "d")
    assert "'cuda:77' cannot be used" in lcm(*again, "--codec-device", "cuda:77").err
    assert "it takes no options" in lcm(*again, "--codec-option", "heads=4").err


@pytest.mark.parametrize("command", ["build", "embed"])
def test_a_language_that_the_codec_does_not_know_ends_the_reading(lcm, workspace, command):
    """At the document that is in it: the broken line behind it is not come to. An empty one is left out anyway."""
    rows = [
        {"text": " ", "lang": "zul"},
        {"text": "The sun rises.", "lang": "en"},
        {"text": "Il pleut.", "lang": "oci"},
    ]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n{broken")
    found = lcm("data", command, "rows.jsonl", "--out", "d", "--codec", "sonar", *OPTIONS)
    assert found.code == 2
    assert "the codec does not know the language oci_Latn: the nearest are " in found.err
    assert "(French)" in found.err
    assert "--lang, or with a field lang" in found.err


# sentences that the codec cuts


@pytest.mark.parametrize("command", ["build", "embed"])
def test_sentences_that_were_cut_are_counted(lcm, workspace, command):
    long = "The sun rises over the hills and a river runs through the town where nobody saw the boat return, " * 2
    assert tokens(long[:-2]) > 66 > tokens(TEXT.partition("\n")[0])
    Path("long.txt").write_text((TEXT.partition("\n")[0] + "\n" + long[:-2] + ".\n\n") * 3)
    build = ("data", command, "long.txt", "--out", "d", "--codec", "sonar", *OPTIONS)
    found = lcm(*build, "--json")
    assert found.code == 0, found.err
    assert json.loads(found.out)["cut_sentences"] == 3
    assert "truncated: 3 sentences were longer than the codec reads; a lower --max-chars keeps all of them" in found.err
    shorter = lcm("data", command, "long.txt", "--out", "e", "--codec", "sonar", *OPTIONS, "--max-chars", 100)
    assert "cut:" not in shorter.err
