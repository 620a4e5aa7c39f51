"""Text in, text out: from Python, alone and together, and what is refused."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from text_model_folder import fitted_codec, make_text_model

from lexalcm.errors import CodecError, LexaError, UserError
from lexalcm.generate.prompts.detect_language import detect_language
from lexalcm.generate.prompts.prompt import read_prompt
from lexalcm.generate.sessions.session import Session
from lexalcm.generate.text import TextModel
from lexalcm.model import LCM, BaseLCM, load_model

ENGLISH = "We must do more for our schools. The budget grows."
JAPANESE = "そのころわたくしは、モリーオ市の博物局に勤めて居りました。"
TEXTS = [ENGLISH, JAPANESE, "Peace.", "It was late. The wind blew. Nobody slept. Morning came."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_text_model(tmp_path_factory.mktemp("text") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> LCM:
    return LCM.from_pretrained(folder)


@pytest.fixture(scope="module")
def writer(model: LCM) -> TextModel:
    return TextModel.of(model)


def test_a_model_yields_sentences(model: LCM) -> None:
    continuation = model.generate(ENGLISH, seed=1, max_sentences=3)
    sentences = list(continuation)
    assert 1 <= len(sentences) <= 3
    assert continuation.stop in ("length", "repetition", "end of text")
    assert continuation.prompt.sentences == ("We must do more for our schools.", "The budget grows.")
    for sentence in sentences:
        assert str(sentence) == sentence.text
        assert ("eng_Latn", sentence.text) in fitted_codec().bank.sentences
        assert sentence.concept.shape == (model.config.dim,)


def test_sentences_are_made_when_they_are_asked_for(model: LCM) -> None:
    """The first of a million does not wait for the others, nor take their memory."""
    continuation = model.generate(ENGLISH, max_sentences=1_000_000, repetition=1, stop_similarity=1)
    assert next(continuation).text
    assert continuation.stop is None


def test_same_seed_same_text_and_another_another(model: LCM) -> None:
    first, again, other = ([str(s) for s in model.generate(ENGLISH, seed=seed, repetition=1)] for seed in (3, 3, 4))
    assert first == again
    assert first != other


@pytest.mark.parametrize("reencode", [False, True])
@pytest.mark.parametrize("architecture", ["base", "one-tower", "two-tower"])
def test_together_is_as_alone(architecture: str, reencode: bool, tmp_path: Path) -> None:
    """Two languages, prompts of several lengths, texts that end at different sentences."""
    model = LCM.from_pretrained(make_text_model(tmp_path / "model", architecture))
    options = {"max_sentences": 6, "repetition": 0.5, "reencode": reencode, "seed": 2}
    together = model.generate_batch(TEXTS, **options)
    for text, sentences in zip(TEXTS, together, strict=True):
        alone = list(model.generate(text, **options))
        assert [one.text for one in sentences] == [one.text for one in alone]
        for one, other in zip(sentences, alone, strict=True):
            torch.testing.assert_close(one.concept, other.concept, rtol=1e-4, atol=1e-5)
    assert len({len(sentences) for sentences in together}) > 1


def test_a_text_says_nothing_twice(model: LCM) -> None:
    for sentences in model.generate_batch([ENGLISH] * 3, max_sentences=8, repetition=1):
        texts = [one.text for one in sentences]
        assert len(set(texts)) == len(texts) == 8


def test_what_it_reads_on_from(model: LCM) -> None:
    kept = list(model.generate(ENGLISH, reencode=False))
    assert all(torch.equal(one.context, one.concept) for one in kept)
    for one in model.generate(ENGLISH, reencode=True):
        expected = fitted_codec().encode([one.text], "eng_Latn")[0]
        np.testing.assert_allclose(one.context.numpy(), expected, atol=1e-6)


def test_training_on_changes_what_is_generated(folder: Path) -> None:
    """Nothing that was prepared for older weights is used."""
    model = load_model(folder)
    before = [one.concept for one in model.generate(ENGLISH)]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    after = [one.concept for one in model.generate(ENGLISH)]
    assert not torch.allclose(before[0], after[0], atol=1e-4)


def test_a_saved_model_takes_its_codec_along(model: LCM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "copy")
    copied = LCM.from_pretrained(tmp_path / "copy")
    assert [str(one) for one in copied.generate(ENGLISH)] == [str(one) for one in model.generate(ENGLISH)]


def test_a_hub_model_is_fetched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def snapshot_download(model_id: str, **_options: object) -> str:
        asked.append(model_id)
        return str(folder)

    monkeypatch.setattr("lexalcm.model.storage.folder.snapshot_download", snapshot_download)
    assert TextModel.open("somebody/their-model").folder == folder
    assert asked == ["somebody/their-model"]


def test_a_number_type_is_chosen(folder: Path) -> None:
    writer = TextModel.open(folder, dtype="bf16")
    assert {parameter.dtype for parameter in writer.model.parameters()} == {torch.bfloat16}
    assert writer.model.normalizer.center.dtype == torch.float32
    options = writer.options()
    assert list(writer.write(writer.prompt(ENGLISH, options), options))


def test_each_denoising_step_is_reported(folder: Path) -> None:
    steps: list[tuple[int, int]] = []
    writer = TextModel.open(folder, on_step=lambda step, of: steps.append((step, of)))
    options = writer.options(steps=5, max_sentences=2, repetition=1, stop_similarity=1)
    list(writer.write(writer.prompt(ENGLISH, options), options))
    assert steps == [(step, 5) for step in range(1, 6)] * 2


BAD_PROMPTS = {
    "empty": ("", "no sentence"),
    "blank": (" \n\t ", "no sentence"),
    "punctuation": ("... !!! ——", "no sentence"),
    "control characters": ("\x00\x01\x1b\x7f", "no sentence"),
    "100,000 letters": ("a" * 100_000, "100,000 characters, 400 sentences or more, and max_prompt is 256"),
    "100,000 characters": ("This goes on and on. " * 4762, "100,002 characters, 401 sentences or more"),
    "257 sentences": ("It goes on. " * 257, "257 sentences or more, and max_prompt is 256"),
}


@pytest.mark.parametrize("kind", BAD_PROMPTS)
def test_bad_prompts_are_refused_at_the_call(model: LCM, kind: str) -> None:
    text, message = BAD_PROMPTS[kind]
    with pytest.raises(UserError, match=message) as raised:
        model.generate(text)
    assert "\n" not in str(raised.value)


def test_control_characters_in_a_text_are_blanks() -> None:
    assert read_prompt("One\x00two\x1b[31m three.").sentences == ("One two [31m three.",)


def test_another_language_than_the_codec_has(model: LCM) -> None:
    with pytest.raises(CodecError, match="no sentence in deu_Latn"):
        model.generate("Wir müssen mehr tun.", lang="deu_Latn")
    with pytest.raises(CodecError, match="no sentence in fra_Latn"):
        model.generate(ENGLISH, to="fra_Latn")


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Привет, мир. Как дела?", "Cyrillic"),
        ("Γειά σου Κόσμε.", "Greek"),
        ("مرحبا بالعالم.", "Arabic"),
        ("안녕하세요. OK?", "Hangul"),
        ("नमस्ते दुनिया।", "Devanagari"),
    ],
)
def test_a_script_that_leaves_the_language_open_is_asked_about(model: LCM, text: str, script: str) -> None:
    with pytest.raises(UserError, match=f"the text is in {script} script: give its language with --lang"):
        model.generate(text)
    with pytest.raises(CodecError, match="no sentence in rus_Cyrl"):
        model.generate(text, lang="rus_Cyrl")


class Knows:
    """A codec's languages."""

    def __init__(self, *languages: str) -> None:
        self.languages = frozenset(languages)

    def record(self) -> SimpleNamespace:
        return SimpleNamespace(name="known")


def test_languages_that_are_seen(writer: TextModel) -> None:
    seen = {
        "We have read «Идиот» by Достоевский there, and liked it.": "eng_Latn",
        "Je ne sais pas.": "eng_Latn",  # it shares its letters
        "12 + 30 = 42!": "eng_Latn",
        "銀河ステーション": "jpn_Jpan",
        "銀河鉄道": "jpn_Jpan",  # the codec knows no Chinese
        "Ｈｅｌｌｏ": "eng_Latn",
    }
    assert {text: detect_language(text, writer.codec) for text in seen} == seen
    assert detect_language("銀河鉄道", Knows("eng_Latn", "jpn_Jpan")) == "jpn_Jpan"
    for codec in (None, Knows("jpn_Jpan", "zho_Hant"), Knows("eng_Latn")):
        with pytest.raises(UserError, match="in Chinese characters: give its language with --lang"):
            detect_language("銀河鉄道", codec)


@pytest.mark.parametrize("seed", [-1, 2**63, 2**70])
def test_a_seed_that_no_generator_takes(model: LCM, writer: TextModel, seed: int) -> None:
    with pytest.raises(UserError, match=f"seed {seed} is not a whole number from 0 to 9223372036854775807"):
        model.generate(ENGLISH, seed=seed)
    session = Session(writer, {}, seed=4)
    with pytest.raises(UserError, match=f"seed {seed}"):
        session.command(f"/set seed {seed}")
    assert session.seed == 4
    session.command(f"/set seed {2**63 - 1}")
    assert next(session.say(ENGLISH)).text


FILES = {
    "config.json": "no config.json",
    "model.safetensors": "no model.safetensors",
    "codec/lsa.json": "codec's files are missing",
    "codec/lsa.safetensors": "codec's files are missing",
    "codec": "codec's files are missing",
    "special_concepts.safetensors": "no special_concepts.safetensors",
}


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(folder, tmp_path / "model")
    missing = tmp_path / "model" / name
    shutil.rmtree(missing) if missing.is_dir() else missing.unlink()
    with pytest.raises(LexaError, match=FILES[name]) as raised:
        LCM.from_pretrained(tmp_path / "model").generate(ENGLISH)
    assert raised.value.exit_code == 2
    assert "\n" not in str(raised.value)


def test_what_can_be_done_without(folder: Path, tmp_path: Path) -> None:
    """Neither end of text nor options of its own: text until its length, with the published options and a note."""
    shutil.copytree(folder, tmp_path / "model")
    for name in ("special_concepts.safetensors", "generation_config.json", "README.md"):
        (tmp_path / "model" / name).unlink()
    writer = TextModel.open(tmp_path / "model")
    assert writer.note is not None
    options = writer.options(stop_similarity=1, max_sentences=2, repetition=1)
    assert (options.steps, len(list(writer.write(writer.prompt(ENGLISH, options), options)))) == (12, 2)


def test_a_model_without_a_folder_has_no_codec(model: LCM) -> None:
    fresh = type(model)(model.config)
    with pytest.raises(CodecError, match="not loaded from a folder"):
        fresh.generate(ENGLISH)


def test_samples_of_a_base_model_would_be_alike(tmp_path: Path) -> None:
    base = TextModel.open(make_text_model(tmp_path / "base", "base"))
    assert isinstance(base.model, BaseLCM)
    with pytest.raises(UserError, match="draws no noise"):
        base.check_samples(2)
    base.check_samples(1)


def test_a_session_goes_on_where_it_was(writer: TextModel) -> None:
    """Two turns are one long prompt, made of what was typed and of the model's own concepts."""
    session = Session(writer, {"max_sentences": 2, "repetition": 1}, seed=5)
    first = list(session.say(ENGLISH))
    second = list(session.say("Peace."))
    options = session.options
    prompt = writer.prompt(["x"] * 5, options, seed=5)
    typed = [torch.from_numpy(fitted_codec().encode([text], "eng_Latn")) for text in ("Peace.",)]
    opening = torch.from_numpy(fitted_codec().encode(["We must do more for our schools.", "The budget grows."], ""))
    concepts = torch.cat([opening, torch.stack([one.context for one in first]), *typed])
    whole = type(prompt)(tuple(one.text for one in session.sentences[:5]), "eng_Latn", "eng_Latn", 5, concepts)
    assert [one.text for one in writer.write(whole, options)] == [one.text for one in second]
    assert [one.by_model for one in session.sentences] == [False, False, True, True, False, True, True]


def test_commands_of_a_session(writer: TextModel, tmp_path: Path) -> None:
    session = Session(writer, {"max_sentences": 1, "repetition": 1})
    with pytest.raises(UserError, match="no text to continue"):
        session.say("")
    with pytest.raises(UserError, match="no text to save"):
        session.command(f"/save {tmp_path / 'text.txt'}")
    session.command("/set steps 7")
    session.command("/set --guidance 1.5")
    session.command("/set lang Japanese")
    assert (session.options.steps, session.options.guidance_scale, session.lang) == (7, 1.5, "jpn_Jpan")
    for wrong in (
        "/set steps many",
        "/set steps 0",
        "/set steps 101",
        "/set stepps 3",
        "/set steps",
        "/set seed -1",
        "/nothing",
    ):
        with pytest.raises(UserError):
            session.command(wrong)
    assert session.options.steps == 7
    session.command("/set steps -")
    session.command("/set lang -")
    assert (session.options.steps, session.lang) == (3, None)
    sentences = [one.text for one in session.say("Peace.")]
    assert "2 sentences" in session.command(f"/save {tmp_path / 'text.txt'}")
    assert (tmp_path / "text.txt").read_text().splitlines() == ["Peace.", *sentences]
    session.command("/reset")
    assert session.sentences == []
