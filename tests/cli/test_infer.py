"""`lcm infer` as a user types it: one prompt, alternatives, documents, turns; mistakes cost one line."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from text_model_folder import make_text_model

from lexalcm.generate.sessions.session import Session

PROMPT = "We must do more for our schools."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place to work in, with a two-tower model as a run's, and a base model."""
    folder = tmp_path_factory.mktemp("infer")
    make_text_model(folder / "runs/two/model")
    make_text_model(folder / "models/base", "base")
    return folder


@pytest.fixture(autouse=True)
def _workplace(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def typed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8"))


def test_sentences_go_to_stdout_and_all_else_to_stderr(lcm: Callable) -> None:
    answer = json.loads(lcm("infer", PROMPT, "--json").out)
    result = lcm("infer", PROMPT)
    assert result.out.splitlines() == [one["text"] for one in answer["sentences"]]
    assert "two-tower, ddim in 3 steps, guidance 2, seed 0" in result.err
    assert f"stopped: {answer['stop']}" in result.err
    assert "step 1 of" not in result.err  # no terminal, no moving line


def test_every_option_reaches_the_sampler(lcm: Callable) -> None:
    given = {
        "--sampler": ("sampler", "ddim"),
        "--steps": ("steps", 5),
        "--guidance": ("guidance_scale", 1.5),
        "--guidance-rescale": ("guidance_rescale", 0.25),
        "--noise-scale": ("initial_noise_scale", 0.75),
        "--eta": ("eta", 0.5),
        "--max-sentences": ("max_sentences", 2),
        "--stop-similarity": ("stop_similarity", 0.8),
        "--stop-repetition": ("repetition", 0.7),
        "--max-prompt": ("max_prompt", 7),
    }
    line = [part for option, (_, value) in given.items() for part in (option, value)]
    options = json.loads(lcm("infer", PROMPT, "--json", "--reencode", *line).out)["options"]
    assert {name: options[name] for name, _ in given.values()} == dict(given.values())
    assert options["reencode"] is True


def test_stopping_can_be_turned_off(lcm: Callable) -> None:
    line = ("infer", PROMPT, "--json", "--stop-similarity", 1, "--stop-repetition", 1, "-n", 9)
    answer = json.loads(lcm(*line).out)
    assert (answer["stop"], len(answer["sentences"])) == ("length", 9)
    early = json.loads(lcm("infer", PROMPT, "--json", "--stop-repetition", -1).out)
    assert (early["stop"], early["sentences"]) == ("repetition", [])


def test_samples_stand_below_one_another_in_a_pipe(lcm: Callable) -> None:
    alone = [lcm("infer", PROMPT, "--seed", seed).out for seed in (4, 5, 6)]
    together = lcm("infer", PROMPT, "--seed", 4, "--samples", 3)
    blocks = together.out.split("\n\n")
    assert blocks == [f"[seed {seed}]\n{text}".rstrip("\n") for seed, text in zip((4, 5), alone, strict=False)] + [
        f"[seed 6]\n{alone[2]}"
    ]
    answer = json.loads(lcm("infer", PROMPT, "--seed", 4, "--samples", 3, "--json").out)
    texts = ["".join(f"{one['text']}\n" for one in sample["sentences"]) for sample in answer["samples"]]
    assert texts == alone


def test_embeddings_are_kept(lcm: Callable, tmp_path: Path) -> None:
    answer = json.loads(lcm("infer", PROMPT, "--json", "--save-embeddings", tmp_path / "one.npy").out)
    concepts = np.load(tmp_path / "one.npy")
    assert concepts.dtype == np.float32
    norms = [one["norm"] for one in answer["sentences"]]
    np.testing.assert_allclose(np.linalg.norm(concepts, axis=1), norms, atol=1e-5)
    lcm("infer", PROMPT, "--samples", 2, "--save-embeddings", tmp_path / "two.safetensors")
    tensors = load_file(tmp_path / "two.safetensors")
    assert tensors.keys() == {"prompt", "written_0", "written_1"}
    np.testing.assert_allclose(tensors["written_0"], concepts, atol=1e-5)
    assert tensors["prompt"].shape == (1, concepts.shape[1])


def test_nothing_written_is_an_empty_array(lcm: Callable, tmp_path: Path) -> None:
    result = lcm("infer", PROMPT, "--stop-repetition", -1, "--save-embeddings", tmp_path / "none.npy")
    assert (result.code, result.out) == (0, "")
    assert np.load(tmp_path / "none.npy").shape == (0, 32)


def test_documents_of_a_file_go_to_a_file(lcm: Callable, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("Peace. It is near.\nThe wind blew.\n")
    line = ("infer", "--input", tmp_path / "in.txt", "--output", tmp_path / "out.jsonl", "-n", 2)
    first = lcm(*line)
    assert (first.code, first.out) == (0, "")
    assert "2 documents" in first.err
    content = (tmp_path / "out.jsonl").read_text()
    assert [json.loads(one)["prompt"] for one in content.splitlines()] == [
        ["Peace.", "It is near."],
        ["The wind blew."],
    ]
    assert "nothing to do" in lcm(*line).err
    other = lcm(*line, "--steps", 5)
    assert other.code == 2
    assert "begun with another steps: 3, not 5" in other.err
    (tmp_path / "out.jsonl").write_text(content[:-20])
    assert "2 documents, 1 of them already there" in lcm(*line).err
    assert (tmp_path / "out.jsonl").read_text() == content
    assert lcm(*line, "--overwrite", "--steps", 5).code == 0


def test_a_mistake_in_the_last_line_of_a_file_is_said_before_anything_is_printed(lcm: Callable, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"text": "Peace."}\n' * 3 + '{"text": "Hallo.", "lang": "de"}\n')
    result = lcm("infer", "--input", tmp_path / "prompts.jsonl", "--batch", 1)
    assert (result.code, result.out) == (2, "")
    assert f"lcm: {tmp_path / 'prompts.jsonl'}:4: " in result.err


def test_documents_of_stdin_go_to_stdout(lcm: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, '{"id": "x", "text": "Peace."}\n{"text": "The wind blew.", "seed": 4}\n')
    result = lcm("infer", "--input", "-", "-n", 1)
    assert [(one["id"], one["seed"]) for one in map(json.loads, result.out.splitlines())] == [("x", 0), ("2", 4)]
    typed(monkeypatch, "Peace.\n")
    assert json.loads(lcm("infer", "--input", "-").out)["prompt"] == ["Peace."]


def test_turns_are_taken(lcm: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    typed(
        monkeypatch, f"/set max-sentences 2\n{PROMPT}\n\n/nonsense\n/save {tmp_path / 'text.json'}\n/quit\nnever read\n"
    )
    result = lcm("infer", "--interactive", "--stop-repetition", 1, "Peace.")
    assert result.code == 0
    saved = json.loads((tmp_path / "text.json").read_text())
    by = [one["by"] for one in saved["sentences"]]
    assert by == ["user", *["model"] * 4, "user", *["model"] * 4]
    assert result.out.splitlines() == [one["text"] for one in saved["sentences"] if one["by"] == "model"]
    assert "lcm: unknown command /nonsense" in result.err


def test_ctrl_c_stops_the_sentence_and_not_the_program(
    lcm: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    say = Session.say

    def interrupted(session: Session, text: str):
        sentences = say(session, text)
        if text == "War.":
            yield next(sentences)
            raise KeyboardInterrupt
        yield from sentences

    monkeypatch.setattr(Session, "say", interrupted)
    typed(monkeypatch, f"War.\nPeace.\n/save {tmp_path / 'text.json'}\n")
    result = lcm("infer", "-i", "-n", 2, "--stop-repetition", 1)
    assert result.code == 0
    assert "stopped" in result.err
    by = [one["by"] for one in json.loads((tmp_path / "text.json").read_text())["sentences"]]
    assert by == ["user", "model", "user", "model", "model"]


def test_a_folder_without_options_of_its_own_is_noted(lcm: Callable, tmp_path: Path) -> None:
    shutil.copytree("runs/two/model", tmp_path / "model")
    (tmp_path / "model/generation_config.json").unlink()
    result = lcm("infer", PROMPT, "-n", 1, "--model", tmp_path / "model")
    assert result.code == 0
    assert len([line for line in result.err.splitlines() if line.startswith("note: ")]) == 1


MISTAKES = [
    ("infer", "nothing to continue"),
    ("infer ''", "the prompt has no sentence"),
    ("infer ...", "the prompt has no sentence"),
    ("infer $CONTROL", "the prompt has no sentence"),
    ("infer $LONG", "100,000 characters"),
    ("infer $LONG --each", "100,000 characters"),
    ("infer Hallo. --lang de", "no sentence in deu_Latn: it knows eng_Latn, jpn_Jpan"),
    ("infer Привет.", "the text is in Cyrillic script: give its language with --lang"),
    ("infer Hello. --to fr", "no sentence in fra_Latn"),
    ("infer Hello. --lang klingon", "unknown language"),
    ("infer Hello. --sampler magic", "unknown sampler 'magic': known are ddim, dpm-solver++"),
    ("infer Hello. --eta 0.5 --sampler dpm-solver++", "adds no noise"),
    ("infer Hello. --steps 101", "trained with 100"),
    ("infer Hello. --stop-similarity 2", "--stop-similarity"),
    (f"infer Hello. --seed {2**70}", "--seed"),
    (f"infer --interactive --seed {2**70}", "--seed"),
    ("infer Hello. --samples 2 --model models/base", "draws no noise"),
    ("infer Hello. --device abacus", "the device 'abacus' cannot be used"),
    ("infer Hello. --dtype fp7", "unknown number type fp7"),
    ("infer Hello. --codec sonar-hf", "made with the codec lsa"),
    ("infer Hello. --save-embeddings a.txt", "name it .npy or .safetensors"),
    ("infer Hello. --samples 2 --save-embeddings a.npy", "name it .safetensors"),
    ("infer Hello. --save-embeddings nowhere/a.npy", "no folder nowhere"),
    ("infer Hello. --output a.jsonl", "--output needs --input"),
    ("infer Hello. --overwrite", "--overwrite has no effect"),
    ("infer Hello. --input a.jsonl", "not both"),
    ("infer --each --input a.jsonl", "exclude each other"),
    ("infer --each --interactive", "exclude each other"),
    ("infer --interactive --samples 2", "--samples has no effect"),
    ("infer --input nowhere.jsonl", "cannot read nowhere.jsonl"),
    ("infer --input a.csv", "known are .jsonl and .txt"),
    ("infer --input runs", "runs is a folder: give a file"),
    ("infer Hello. --model nowhere", "no such model: nowhere"),
    ("infer Hello. --model some/model", "cannot be fetched"),
]
TEXTS = {"$CONTROL": "\x00\x1b\x07", "$LONG": "a" * 100_000, "''": ""}


@pytest.mark.parametrize(("line", "message"), MISTAKES)
def test_mistakes_cost_one_line(lcm: Callable, monkeypatch: pytest.MonkeyPatch, line: str, message: str) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    result = lcm(*(TEXTS.get(word, word) for word in line.split()))
    assert result.code == 2
    assert result.out == ""
    complaints = [text for text in result.err.splitlines() if text.startswith("lcm: ")]
    assert len(complaints) == 1
    assert message in complaints[0]
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    "name",
    ["config.json", "model.safetensors", "codec/lsa.json", "codec/lsa.safetensors", "special_concepts.safetensors"],
)
def test_a_missing_file_costs_one_line(lcm: Callable, tmp_path: Path, name: str) -> None:
    shutil.copytree("runs/two/model", tmp_path / "model")
    (tmp_path / "model" / name).unlink()
    result = lcm("infer", PROMPT, "--model", tmp_path / "model")
    assert (result.code, result.out) == (2, "")
    assert len([text for text in result.err.splitlines() if text.startswith("lcm: ")]) == 1


def test_the_codec_of_another_data_set_costs_one_line(lcm: Callable, tmp_path: Path) -> None:
    shutil.copytree("runs/two/model", tmp_path / "model")
    text = json.loads((tmp_path / "model/codec/lsa.json").read_text())
    text["bank"][0][1] = "Fitted on something else."
    (tmp_path / "model/codec/lsa.json").write_text(json.dumps(text))
    result = lcm("infer", PROMPT, "--model", tmp_path / "model")
    assert result.code == 2
    assert "it was fitted on other text" in result.err
