"""`lcm train` from the command line: what it prints and writes, and what it refuses in one line."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from training_workspace import make_workspace, zero

from lexalcm.cli import app, entry, training_display
from lexalcm.cli.app import main
from lexalcm.data.batches.batch import Batch
from lexalcm.distributed.signals import StopRequest
from lexalcm.model import load_model
from lexalcm.train.run import main as run

Lcm = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Any]) -> Path:
    return make_workspace(tmp_path_factory.mktemp("made"), make_dataset)


@pytest.fixture
def workspace(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh copy, which is where commands run."""
    shutil.copytree(made, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def lcm_train(workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Lcm:
    """Runs `lcm train` with the workspace's settings; gives the exit code, standard output and standard error."""

    def run(*arguments: str, config: str | None = "config.yaml") -> tuple[int, str, str]:
        options = ["--config", config] if config else []
        monkeypatch.setattr(sys, "argv", ["lcm", "train", *options, *arguments])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_writes_all_that_it_says(lcm_train: Lcm) -> None:
    code, out, err = lcm_train()
    assert code == 0
    assert "train loss" in out
    assert "validation loss" in out
    run = Path("runs/base")
    assert {path.name for path in run.iterdir()} == {
        "config.yaml",
        "run.json",
        "checkpoints",
        "latest",
        "metrics.jsonl",
        "logs",
        "tb",
        "model",
    }
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 6
    assert f"train loss {last['loss']:.4f}, validation loss {last['validation_loss']:.4f}" in out
    assert list((run / "tb").iterdir())
    assert "step 6/6" in err
    assert load_model(run).config == load_model("models/base").config


@pytest.mark.parametrize(("decay", "file"), [("null", "weights.safetensors"), ("0.4", "ema.safetensors")])
def test_the_exported_model_has_the_weights_of_the_last_checkpoint(lcm_train: Lcm, decay: str, file: str) -> None:
    """Or, where one is kept, their moving average."""
    from safetensors.torch import load_file

    lcm_train("--set", f"train.ema.decay={decay}")
    checkpoint = Path("runs/base/checkpoints/step_00000006")
    assert (checkpoint / "ema.safetensors").exists() == (decay != "null")
    saved = load_file(checkpoint / file)
    exported = dict(load_model("runs/base").named_parameters())
    assert exported.keys() == saved.keys()
    assert all((exported[name] == saved[name]).all() for name in saved)


def test_the_same_line_again_says_that_the_run_is_complete(lcm_train: Lcm, workspace: Path) -> None:
    lcm_train()
    before = snapshot(workspace)
    code, out, err = lcm_train()
    assert (code, out) == (0, "")
    assert "runs/base is complete" in err
    assert snapshot(workspace) == before


def test_the_deepspeed_launcher_may_put_local_rank_anywhere(lcm_train: Lcm, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lcm_train("--local_rank=0", "--steps", "1")[0] == 0
    monkeypatch.setattr(sys, "argv", ["lcm", "--local_rank=0", "train", "--config", "config.yaml", "--steps", "1"])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code


def test_json_is_all_that_standard_output_holds(lcm_train: Lcm) -> None:
    code, out, _ = lcm_train("--json", "--set", zero(2))
    result = json.loads(out)
    assert code == 0
    assert result["status"] == "finished"
    assert result["step"] == 6
    assert result["model"] == "runs/base/model"


@pytest.mark.parametrize("engine", ["single", "deepspeed"])
def test_a_dry_run_reports_memory_and_keeps_nothing(lcm_train: Lcm, workspace: Path, engine: str) -> None:
    before = snapshot(workspace)
    code, out, _ = lcm_train("--dry-run", "--json", "--engine", engine)
    report = json.loads(out)
    weights = sum(parameter.numel() for parameter in load_model("models/base").parameters())
    assert code == 0
    assert report["model_parameters"] == weights
    assert report["parameters_bytes"] == report["gradients_bytes"] == 4 * weights
    assert report["optimizer_bytes"] == (8 + 4) * weights  # AdamW's moments, and the moving average
    assert report["peak_bytes"] > 16 * weights
    assert snapshot(workspace) == before


def test_settings_are_saved_and_can_be_used_again(lcm_train: Lcm) -> None:
    lcm_train("--set", "train.lr=0.02", "--steps", "3")
    code, _, _ = lcm_train("--name", "again", config="runs/base/config.yaml")
    assert code == 0
    first, second = (Path(f"runs/{name}/metrics.jsonl").read_text().splitlines() for name in ("base", "again"))
    assert [json.loads(line)["loss"] for line in first] == [json.loads(line)["loss"] for line in second]


def test_logging_engine_and_checkpoints_may_change(lcm_train: Lcm) -> None:
    lcm_train("--steps", "3")
    code, _, err = lcm_train(
        "--steps", "4", "--set", zero(1), "--set", "train.log_every=2", "--set", "data.num_workers=1"
    )
    assert code == 0
    assert "resuming from step 3" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_while_the_run_is_loaded_ends_it_well(
    lcm_train: Lcm, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def load_and_signal(model: str) -> Any:
        os.kill(os.getpid(), number)
        return load_model(model)

    with monkeypatch.context() as patch:
        patch.setattr(run, "load_model", load_and_signal)
        code, out, err = lcm_train("--stop-code", "75")
        assert (code, out, err) == (75, "", "stopped before the first step: the same command starts it\n")
        assert not list(Path("runs").iterdir())
    assert lcm_train("--steps", "3")[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(run, "load_model", load_and_signal)
        code, _, err = lcm_train()
        assert code == 0
        assert err.startswith("stopped at step 3, saved in runs/base/checkpoints/step_00000003: ")
    assert "resuming from step 3" in lcm_train()[2]


def test_a_signal_before_the_command_line_is_loaded_ends_it_well_too(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(stop: StopRequest | None) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        main(stop)

    monkeypatch.setattr(app, "main", load)
    monkeypatch.setattr(sys, "argv", ["lcm", "train", "--config", "config.yaml"])
    with pytest.raises(SystemExit) as end:
        entry.main()
    assert not end.value.code
    assert capsys.readouterr().err == "stopped before the first step: the same command starts it\n"


@pytest.mark.parametrize("line", [["data", "build", "train"], ["train", "--plan"], ["train", "--help"], []])
def test_a_signal_ends_what_does_not_train_as_always(monkeypatch: pytest.MonkeyPatch, line: list[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    found = []
    monkeypatch.setattr(app, "main", lambda stop: found.append((stop, signal.getsignal(signal.SIGTERM))))
    monkeypatch.setattr(sys, "argv", ["lcm", *line])
    entry.main()
    assert found == [(None, before)]


def test_what_listens_to_signals_is_loaded_before_what_takes_time() -> None:
    slow = "{'typer', 'rich', 'pydantic', 'torch', 'numpy'}"
    line = f"import sys, lexalcm.cli.entry; sys.exit(bool({slow} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", line], check=False).returncode == 0


@pytest.mark.parametrize(("during", "end"), [("reading", 3), ("after", 4)])
def test_a_run_ends_with_the_step_in_which_it_is_asked_to_stop(
    lcm_train: Lcm, monkeypatch: pytest.MonkeyPatch, during: str, end: int
) -> None:
    """Asked while the third step reads its second micro-batch, it ends with that; asked behind it, with the next."""
    ask = partial(os.kill, os.getpid(), signal.SIGTERM)

    def asking(batch: Batch, device: torch.device) -> Batch:
        if during == "reading" and batch.number == 5:
            ask()
        return batch.to(device)

    class Asking(training_display.LineDisplay):
        def advance(self, metrics: Any) -> None:
            if during == "after" and metrics["step"] == 3:
                ask()

    monkeypatch.setattr(Batch, "on", asking)
    monkeypatch.setattr(training_display, "LineDisplay", Asking)
    code, _, err = lcm_train("--set", "train.validate_every=100")
    assert code == 0
    assert f"stopped at step {end}, saved" in err
    lines = Path("runs/base/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, end + 1))


BAD = {
    "unknown key": (["--set", "train.learning_rate=1"], "unknown setting train.learning_rate: did you mean train.lr?"),
    "nearest key": (["--set", "train.warmup_step=1"], "did you mean warmup_steps?"),
    "wrong type": (["--set", "train.steps=many"], "train.steps: expected"),
    "wrong engine": (["--engine", "magic"], "train.engine: unknown engine 'magic': known are auto, single, ddp"),
    "zero steps": (["--steps", "0"], "train.steps"),
    "no such data": (["--data", "nowhere"], "no data set in nowhere"),
    "no such model": (["--model", "nowhere"], "nowhere"),
    "a name that is a path": (["--name", "../up"], "plain folder name"),
    "no such DeepSpeed file": (["--deepspeed", "nowhere.json"], "no such DeepSpeed file: nowhere.json"),
    "single with a DeepSpeed file": (["--engine", "single", "--deepspeed", "x.json"], "omit one of them"),
    "nothing to resume": (["--resume", "runs/none"], "neither the folder of a run nor one of its checkpoints"),
    "overwrite alone": (["--overwrite"], "--overwrite goes with --resume never"),
    "a plan in several processes": (
        ["--plan", "--nproc", "2"],
        "--plan needs none: give the number of GPUs with --gpus",
    ),
    "compiling, perhaps": (["--set", "train.compile=maybe"], "train.compile: expected 'auto', True or False"),
    "no number of processes": (["--nproc", "many"], "give a number of processes, at least 1, or gpu"),
    "no processes": (["--nproc", "0"], "give a number of processes, at least 1, or gpu"),
    "a process on each of no GPUs": (["--nproc", "gpu"], "torch sees no GPU here"),
    "a code that is none": (["--stop-code", "256"], "Invalid value for '--stop-code'"),
    "row too short": (["--set", "data.row_length=1"], "data.row_length must be at least 2"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD.keys())
def test_a_mistake_gives_one_line_and_leaves_nothing(
    lcm_train: Lcm, workspace: Path, arguments: list[str], message: str
) -> None:
    refused(lcm_train, workspace, arguments, message)


def refused(lcm_train: Lcm, workspace: Path, arguments: list[str], message: str, **options: Any) -> None:
    before = snapshot(workspace)
    code, out, err = lcm_train(*arguments, **options)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("lcm: ")
    assert message in err
    assert snapshot(workspace) == before


def test_no_such_config_file(lcm_train: Lcm, workspace: Path) -> None:
    refused(lcm_train, workspace, [], "no such config file: nowhere.yaml", config="nowhere.yaml")


def test_a_config_file_that_is_no_yaml(lcm_train: Lcm, workspace: Path) -> None:
    Path("broken.yaml").write_text("train: [")
    refused(lcm_train, workspace, [], "broken.yaml is not valid YAML", config="broken.yaml")


def test_a_wrong_setting_in_the_config_file_names_the_file(lcm_train: Lcm, workspace: Path) -> None:
    Path("wrong.yaml").write_text("train: {lr: fast}")
    refused(lcm_train, workspace, [], "got 'fast' (in wrong.yaml)", config="wrong.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "must hold one JSON object"),
        ('{"gradient_clipping": 0.5}', "gradient_clipping = 0.5, but train.clip_norm is 1.0"),
        ('{"zero_optimization": {"stage": 2, "no_such_key": 1}}', "DeepSpeed says of no_such_key: Extra inputs"),
        ('{"zero_optimization": {"stage": 2, "reduce_bucket_size": "big"}}', "DeepSpeed says of reduce_bucket_size"),
    ],
)
def test_a_wrong_deepspeed_file(lcm_train: Lcm, workspace: Path, content: str, message: str) -> None:
    Path("ds.json").write_text(content)
    refused(lcm_train, workspace, ["--deepspeed", "ds.json"], message)


def test_deepspeed_is_not_installed(lcm_train: Lcm, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)  # importing it now fails as if it were not there
    refused(lcm_train, workspace, ["--set", zero(2)], "pip install 'lexalcm[deepspeed]'")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "sonar"}, "codec lsa"),
        ({"fingerprint": "1" * 64}, "another fit of the codec lsa"),
        ({"dim": 9}, "dim"),
    ],
)
def test_a_data_set_of_another_codec(lcm_train: Lcm, workspace: Path, change: dict[str, Any], message: str) -> None:
    file = Path("data/dataset.json")
    manifest = json.loads(file.read_text())
    manifest["codec"].update(change)
    file.write_text(json.dumps(manifest))
    refused(lcm_train, workspace, [], message)


def test_a_setting_that_changed(lcm_train: Lcm, workspace: Path) -> None:
    lcm_train()
    refused(lcm_train, workspace, ["--set", "train.lr=0.5"], "started with train.lr = 0.01, not 0.5: use --name NEW")
    refused(lcm_train, workspace, ["--steps", "5"], "started with train.steps = 6, not 5")
    refused(lcm_train, workspace, ["--set", "train.ema.decay=null"], "started with train.ema.decay = 0.4, not null")
    refused(lcm_train, workspace, ["--set", "data.micro_batch=1"], "started with data.micro_batch = 2, not 1")


def test_a_model_or_data_set_that_changed(lcm_train: Lcm, workspace: Path) -> None:
    from safetensors.numpy import load_file, save_file

    lcm_train()
    weights = load_file("models/base/model.safetensors")
    save_file({name: weight + 1 for name, weight in weights.items()}, "models/base/model.safetensors")
    refused(lcm_train, workspace, [], "started from other weights than models/base holds now")
    save_file(weights, "models/base/model.safetensors")
    assert lcm_train()[0] == 0
    manifest = Path("data/dataset.json")
    manifest.write_text(manifest.read_text() + "\n")
    refused(lcm_train, workspace, [], "started on another data set than data is now")


def test_a_run_is_replaced_only_when_asked(lcm_train: Lcm, workspace: Path) -> None:
    lcm_train()
    refused(lcm_train, workspace, ["--resume", "never"], "runs/base exists already: add --overwrite")
    code, _, _ = lcm_train("--resume", "never", "--overwrite", "--set", "train.lr=0.5", "--steps", "2")
    assert code == 0
    assert len(Path("runs/base/metrics.jsonl").read_text().splitlines()) == 2


def test_a_run_never_replaces_what_it_trains_with(lcm_train: Lcm, workspace: Path) -> None:
    lcm_train()
    Path("models/again").symlink_to("../runs/base/model")
    anew = ["--resume", "never", "--overwrite"]
    for model in ("runs/base", "runs/base/model", "models/again"):
        message = (
            f"the model {model} is in runs/base, the folder of the run that is to train with it: choose another name"
        )
        for options in ([], anew):
            refused(lcm_train, workspace, ["--model", model, "--name", "base", *options], message)
    shutil.copytree("data", "runs/base/data")
    refused(lcm_train, workspace, ["--data", "runs/base/data", *anew], "the data set runs/base/data is in runs/base")
    assert lcm_train("--model", "runs/base", "--name", "second", "--steps", "1")[0] == 0
    assert lcm_train("--model", "runs/second", *anew, "--name", "base", "--steps", "1")[0] == 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "config.yaml").write_text(""), "runs/base/config.yaml is empty"),
        (lambda run: (run / "config.yaml").write_text("[]"), "runs/base/config.yaml must hold settings"),
        (lambda run: (run / "run.json").unlink(), "runs/base/run.json is missing or damaged"),
        (lambda run: (run / "run.json").write_text("{"), "runs/base/run.json is missing or damaged"),
    ],
    ids=["empty settings", "no settings", "no fingerprints", "half of them"],
)
def test_a_run_whose_files_are_damaged(
    lcm_train: Lcm, workspace: Path, damage: Callable[[Path], Any], message: str
) -> None:
    lcm_train("--steps", "1")
    damage(Path("runs/base"))
    refused(lcm_train, workspace, ["--resume", "runs/base"], message, config=None)
    refused(lcm_train, workspace, [], message)


def test_a_folder_that_is_no_run_is_left_alone(lcm_train: Lcm, workspace: Path) -> None:
    Path("runs/base").mkdir(parents=True)
    Path("runs/base/thesis.txt").write_text("years of work")
    refused(lcm_train, workspace, [], "holds no config.yaml, so it is not a run")
    refused(lcm_train, workspace, ["--resume", "never", "--overwrite"], "--overwrite does not replace such a folder")


def test_damaged_checkpoints_alone(lcm_train: Lcm, workspace: Path) -> None:
    lcm_train("--steps", "3")
    Path("runs/base/checkpoints/step_00000003/weights.safetensors").unlink()
    code, _, err = lcm_train("--steps", "6")
    assert code == 2
    assert "skipping the checkpoint step_00000003" in err
    assert "start over with --resume never --overwrite" in err


@pytest.mark.parametrize(
    ("wrong", "message"), [({"RANK": "5"}, "RANK=5, LOCAL_RANK=1 and"), ({"MASTER_PORT": "abc"}, "MASTER_PORT=abc")]
)
def test_a_launcher_that_says_nonsense(
    lcm_train: Lcm, workspace: Path, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, str], message: str
) -> None:
    local_rank = "1" if "RANK" in wrong else "0"
    for name, value in ({"RANK": "0", "LOCAL_RANK": local_rank, "WORLD_SIZE": "2"} | wrong).items():
        monkeypatch.setenv(name, value)
    refused(lcm_train, workspace, [], message)


def test_processes_without_a_common_engine(lcm_train: Lcm, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    refused(lcm_train, workspace, ["--engine", "single"], "3 processes were started, but train.engine is single")
    refused(lcm_train, workspace, [], "data.global_batch=2 micro-batches cannot be divided evenly over 3 processes")
