import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from remote_servers import serve

from lexalcm.data.build.one_process import build_dataset
from lexalcm.data.build.settings import BuildSettings
from lexalcm.data.convert.convert import convert
from lexalcm.data.convert.settings import ConvertSettings
from lexalcm.data.format.dataset import Dataset
from lexalcm.data.normalizer.fit import NormalizerSettings
from lexalcm.data.normalizer.refit import refit_normalizer
from lexalcm.data.sources.corpus import Document
from lexalcm.errors import DataError
from lexalcm.verify.dataset.check import verify_dataset

NAMES = ["normalizer.safetensors", "special_concepts.safetensors"]


@pytest.fixture
def folder(tmp_path: Path, hash_codec: type) -> Path:
    documents = [Document(f"{i}", "eng_Latn", f"Number {i}. " * (2 + i % 4) + f"End {i}.") for i in range(30)]
    return build_dataset(documents, tmp_path / "d", BuildSettings(codec="hash")).dataset.path


def flip(file: Path, place: int) -> None:
    """Flip one bit, whose place counts from the end if it is negative."""
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def noted(folder: Path) -> dict[str, str]:
    return json.loads((folder / "dataset.json").read_text())["companions"]


def hashes(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in NAMES}


def findings(folder: Path | str) -> list[tuple[str, str, str]]:
    return [(one.severity, one.where, one.what) for one in verify_dataset(folder).findings]


def test_the_manifest_notes_them_however_the_set_is_made(folder: Path, tmp_path: Path) -> None:
    convert([folder], tmp_path / "converted")
    for made in (folder, tmp_path / "converted"):
        assert noted(made) == hashes(made)
        assert findings(made) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_flipped_bit_among_the_numbers_is_found_by_verify_and_before_any_use(folder: Path, name: str) -> None:
    flip(folder / name, -1)
    assert findings(folder) == [("error", name, "content has changed since it was built (SHA-256)")]
    with pytest.raises(DataError, match=f"{folder}/{name} is not the one that dataset.json notes") as caught:
        Dataset.open(folder)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_damaged_normalizer_is_mended_by_fitting_it_again(folder: Path) -> None:
    whole = (folder / NAMES[0]).read_bytes()
    flip(folder / NAMES[0], -1)
    with pytest.raises(DataError, match=f"or run `lcm data normalize {folder}`"):
        Dataset.open(folder)
    refit_normalizer(folder, NormalizerSettings())
    assert (folder / NAMES[0]).read_bytes() == whole
    assert findings(folder) == []


def test_fitting_the_normalizer_again_says_nothing_for_the_other_file(folder: Path) -> None:
    flip(folder / NAMES[1], -1)
    refit_normalizer(folder, NormalizerSettings(clip_probability=0.1))
    assert noted(folder)[NAMES[0]] == hashes(folder)[NAMES[0]]
    with pytest.raises(DataError, match=f"{NAMES[1]} is not the one .* copy it here again or build"):
        Dataset.open(folder)


@pytest.mark.parametrize("given", ["codec", "special"])
def test_damaged_special_concepts_do_not_get_into_a_converted_set(folder: Path, tmp_path: Path, given: str) -> None:
    tar = shutil.copy(folder / "train-000000.tar", tmp_path)
    flip(folder / NAMES[1], -1)
    settings = ConvertSettings(codec=str(folder)) if given == "codec" else ConvertSettings(codec="hash")
    with pytest.raises(DataError, match=f"{folder}/{NAMES[1]} is not the one"):
        convert([tar], tmp_path / "converted", settings, special=folder if given == "special" else None)
    assert not (tmp_path / "converted").exists()


def test_manifests_without_checksums_are_read(folder: Path) -> None:
    tree = json.loads((folder / "dataset.json").read_text())
    del tree["companions"]
    (folder / "dataset.json").write_text(json.dumps(tree))
    assert findings(folder) == []
    flip(folder / NAMES[0], -1)
    assert len(Dataset.open(folder).normalizer()["center"]) == 8


def test_of_a_remote_set_a_damaged_copy_is_fetched_again_and_a_damaged_original_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("aiohttp", reason="reading http:// needs the extra http")
    monkeypatch.setenv("LEXALCM_CACHE", str(tmp_path / "cache"))
    shutil.copytree(folder, tmp_path / "served" / "set")
    with serve(tmp_path / "served") as server:
        address = f"{server.address}/set"
        copy = Dataset.open(address).path / NAMES[0]
        flip(copy, -1)
        there = Dataset.open(address).normalizer()
        for name, values in Dataset.open(folder).normalizer().items():
            np.testing.assert_array_equal(there[name], values)
        flip(tmp_path / "served" / "set" / NAMES[0], -1)
        copy.unlink()
        with pytest.raises(DataError, match=f"{address}/{NAMES[0]} is not the one .*: upload it again"):
            Dataset.open(address)
        assert findings(address)[0] == ("error", NAMES[0], "content has changed since it was built (SHA-256)")
