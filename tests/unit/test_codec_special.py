"""Special concepts: one table a codec, embedded once, with what users add; the vectors of the LexaLCM project."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lexalcm.codec.special import (
    SPECIAL_CONCEPTS,
    SPECIAL_FILE,
    describe_special,
    encode_special,
    kept_sentences,
    parse_special,
    read_special,
    special_sentences,
    write_special,
)
from lexalcm.data.batches.special_concepts import special_vectors
from lexalcm.data.build.one_process import build_dataset
from lexalcm.data.build.settings import BuildSettings
from lexalcm.data.info import describe
from lexalcm.data.sources.corpus import Document
from lexalcm.errors import ConfigError, UserError

SONAR_VECTORS = Path(__file__).parents[1] / "data" / "sonar_vectors"


def test_each_codec_has_its_table_and_users_add_to_it() -> None:
    assert special_sentences("lsa") == SPECIAL_CONCEPTS
    sonar = special_sentences("sonar", {"moderator": "Moderator:", "pad": "Nothing."})
    assert sonar["end_of_text"] == "[[End of Text.]]"
    assert (sonar["moderator"], sonar["pad"], sonar["user"]) == ("Moderator:", "Nothing.", "User:")


def test_they_are_embedded_by_the_codec_and_kept_with_their_sentences(tmp_path: Path, hash_codec: type) -> None:
    codec = hash_codec()
    write_special(tmp_path / SPECIAL_FILE, codec, {"moderator": "Moderator:"})
    kept = read_special(tmp_path)
    np.testing.assert_array_equal(kept["moderator"], hash_codec.vector("Moderator:"))
    assert kept.keys() == encode_special(codec).keys() | {"moderator"}
    assert kept_sentences(tmp_path)["moderator"] == "Moderator:"
    assert 'end_of_text "End of text."' in describe_special(kept_sentences(tmp_path))


def test_a_data_set_has_those_of_its_settings(tmp_path: Path, hash_codec: type) -> None:
    documents = [Document(f"d{i}", "eng_Latn", "One sentence. Another one.") for i in range(4)]
    settings = BuildSettings(codec="hash", special={"moderator": "Moderator:"})
    dataset = build_dataset(documents, tmp_path / "out", settings).dataset
    assert describe(dataset).special_concepts["moderator"] == "Moderator:"
    np.testing.assert_array_equal(special_vectors(dataset, ["moderator"]), [hash_codec.vector("Moderator:")])
    with pytest.raises(ConfigError, match="did you mean moderator"):
        special_vectors(dataset, ["moderater"])


def test_what_the_command_line_gives() -> None:
    assert parse_special(["moderator = Mo = d:", "a=b"]) == {"moderator": "Mo = d:", "a": "b"}
    with pytest.raises(ConfigError, match="write it as NAME=SENTENCE"):
        parse_special(["moderator"])
    with pytest.raises(ConfigError, match="'Mod Erator' cannot name"):
        special_sentences("lsa", {"Mod Erator": "x"})
    with pytest.raises(ConfigError, match="moderator has an empty sentence"):
        special_sentences("lsa", {"moderator": " "})


def test_real_sonar_vectors_in_the_layout_of_the_lexalcm_project() -> None:
    found = read_special(SONAR_VECTORS)
    assert sorted(found) == ["end_of_text", "hello_world", "pad", "start_of_text"]
    for file, name in (("EndOfText", "end_of_text"), ("HelloWorld", "hello_world")):
        np.testing.assert_array_equal(found[name], load_file(SONAR_VECTORS / f"{file}.safetensors")["embedding"][0])
    assert {(vector.shape, vector.dtype.name) for vector in found.values()} == {((1024,), "float32")}
    lengths = [np.linalg.norm(vector) for vector in found.values()]
    assert 0.15 < min(lengths) < max(lengths) < 0.25  # SONAR's vectors are about 0.2 long


def test_missing_and_damaged_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no special concepts: known are"):
        read_special(tmp_path)
    assert kept_sentences(tmp_path) == {}
    shutil.copy(SONAR_VECTORS / "EndOfText.safetensors", tmp_path)
    (tmp_path / "StartOfText.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="are damaged"):
        read_special(tmp_path)


def test_files_from_before_sentences_were_noted(tmp_path: Path) -> None:
    save_file({"end_of_text": np.ones(3, np.float32)}, tmp_path / SPECIAL_FILE)
    assert kept_sentences(tmp_path) == {"end_of_text": ""}
    assert describe_special(kept_sentences(tmp_path)) == "end_of_text"
