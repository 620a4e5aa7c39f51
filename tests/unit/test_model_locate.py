import os

import pytest

from lexalcm.errors import UserError
from lexalcm.model.storage.locate import find_model


def put_model(folder, time=None):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    if time is not None:
        os.utime(folder / "config.json", (time, time))
    return folder


def test_a_model_folder_and_the_folder_of_its_run_both_do(tmp_path):
    model = put_model(tmp_path / "runs" / "base" / "model")
    assert find_model(model) == model
    assert find_model(tmp_path / "runs" / "base") == model
    assert find_model(str(model)) == model


def test_no_path_means_the_newest_exported_model(tmp_path):
    put_model(tmp_path / "a" / "model", time=1000)
    newest = put_model(tmp_path / "b" / "model", time=3000)
    put_model(tmp_path / "c" / "model", time=2000)
    (tmp_path / "d" / "checkpoints").mkdir(parents=True)
    assert find_model(None, runs=tmp_path) == newest


def test_mistakes_say_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"no trained model in .*: run lcm train first"):
        find_model(None, runs=tmp_path / "runs")
    with pytest.raises(UserError, match="no such model"):
        find_model(tmp_path / "nowhere")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="has not exported a model yet"):
        find_model(tmp_path / "run")
    with pytest.raises(UserError, match=r"no config\.json"):
        find_model(tmp_path)
