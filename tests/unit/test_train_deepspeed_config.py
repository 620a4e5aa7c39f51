import json
import re
from pathlib import Path
from typing import Any

import pytest

from lexalcm.config import load_settings
from lexalcm.errors import ConfigError
from lexalcm.train.engines.deepspeed_config import DeepSpeedSetup, fill, read_deepspeed_json
from lexalcm.train.settings import RunConfig

CONFIGS = Path(__file__).parents[2] / "configs"
SETTINGS = [
    "data.micro_batch=3",
    "data.global_batch=8",
    "train.clip_norm=0.7",
    "train.steps=400",
    "train.lr=1e-3",
    "train.betas=[0.9, 0.95]",
    "train.eps=1e-8",
    "train.warmup_steps=40",
    "train.schedule=cosine",
    "deepspeed=ds.json",
]


def filled(tree: dict[str, Any], *overrides: str, best: str = "fp32") -> DeepSpeedSetup:
    config = load_settings(RunConfig, None, [*SETTINGS, *overrides])
    return fill(tree, config, world_size=2, width=2048, best=best)


def test_auto_is_filled_from_the_settings() -> None:
    tree = {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "train_batch_size": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "zero_optimization": {
            "stage": 3,
            "reduce_bucket_size": "auto",
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
        },
    }
    result = filled(tree).tree
    assert result["train_micro_batch_size_per_gpu"] == 3
    assert result["gradient_accumulation_steps"] == 4  # 8 micro-batches on 2 processes
    assert result["train_batch_size"] == 24
    assert result["gradient_clipping"] == 0.7
    assert result["bf16"] == {"enabled": False}
    assert result["zero_optimization"] == {
        "stage": 3,
        "reduce_bucket_size": 2048 * 2048,  # Hugging Face's rules
        "stage3_prefetch_bucket_size": int(0.9 * 2048 * 2048),
        "stage3_param_persistence_threshold": 10 * 2048,
    }
    assert tree["train_batch_size"] == "auto"  # the caller's tree is left alone


def test_what_is_left_out_is_filled_too() -> None:
    result = filled({})
    assert result.stage == 0
    assert result.tree["train_batch_size"] == 24


@pytest.mark.parametrize(
    ("tree", "names"),
    [
        ({"train_batch_size": 16}, ["train_batch_size = 16", "data.micro_batch x data.global_batch is 24"]),
        ({"train_micro_batch_size_per_gpu": 4}, ["train_micro_batch_size_per_gpu = 4", "data.micro_batch is 3"]),
        ({"gradient_accumulation_steps": 8}, ["gradient_accumulation_steps = 8", "data.global_batch", "is 4"]),
        ({"gradient_clipping": 1.0}, ["gradient_clipping = 1.0", "train.clip_norm is 0.7"]),
        ({"optimizer": {"type": "AdamW", "params": {"lr": 1}}}, ["optimizer.params.lr = 1", "train.lr is 0.001"]),
        ({"optimizer": {"params": {"betas": [0.9, 0.999]}}}, ["optimizer.params.betas", "train.betas is [0.9, 0.95]"]),
        ({"optimizer": {"params": {"adam_w_mode": False}}}, ["adam_w_mode = false", "decoupled weight decay"]),
        ({"optimizer": {"type": "Lion"}}, ["optimizer.type = 'Lion'", "AdamW"]),
        ({"scheduler": {"type": "WarmupLR"}}, ["scheduler.type = 'WarmupLR'", "train.schedule is 'cosine'"]),
        ({"scheduler": {"params": {"warmup_num_steps": 5}}}, ["warmup_num_steps = 5", "train.warmup_steps is 40"]),
        (
            {"activation_checkpointing": {"cpu_checkpointing": True}},
            ["activation_checkpointing.cpu_checkpointing = true", "train.activation_checkpointing says, 'none'"],
        ),
        ({"activation_checkpointing": True}, ["activation_checkpointing must be an object"]),
        ({"fp16": {"enabled": True}}, ["fp16.enabled = true", "bf16"]),
        ({"zero_optimization": {"stage": 7}}, ["zero_optimization.stage = 7"]),
        ({"zero_optimization": {"stage": "two"}}, ['zero_optimization.stage = "two"']),
        ({"zero_optimization": {"stage": 2, "sub_group_size": "auto"}}, ["zero_optimization.sub_group_size", "auto"]),
        ({"zero_optimization": 2}, ["zero_optimization must be an object"]),
    ],
)
def test_a_contradiction_names_both_sides(tree: dict[str, Any], names: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        filled(tree)
    assert "ds.json" in str(error.value)
    for name in names:
        assert name in str(error.value)


def test_a_schedule_that_ends_at_nothing_contradicts_a_lowest_rate() -> None:
    tree = {"scheduler": {"type": "WarmupDecayLR", "params": {"total_num_steps": "auto"}}}
    with pytest.raises(ConfigError, match=r"'WarmupDecayLR', which ends at .* of 0, but train\.min_lr_ratio is 0\.1"):
        filled(tree, "train.schedule=linear")
    assert "scheduler" not in filled(tree, "train.schedule=linear", "train.min_lr_ratio=0").tree


def test_agreeing_sections_are_accepted_and_left_to_the_trainer() -> None:
    tree = {
        "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": [0.9, 0.95], "eps": 1e-8}},
        "scheduler": {"type": "WarmupCosineLR", "params": {"warmup_num_steps": "auto", "total_num_steps": 400}},
        "activation_checkpointing": {"partition_activations": False, "number_checkpoints": None},
        "gradient_clipping": 0.7,
    }
    result = filled(tree).tree
    assert "optimizer" not in result
    assert "activation_checkpointing" not in result
    assert "scheduler" not in result


@pytest.mark.parametrize(
    ("enabled", "setting", "best", "precision"),
    [
        ("auto", "auto", "bf16", "bf16"),
        ("auto", "auto", "fp32", "fp32"),
        (True, "auto", "fp32", "bf16"),
        (False, "auto", "bf16", "fp32"),
        ("auto", "bf16", "fp32", "bf16"),
    ],
)
def test_precision_comes_from_the_file_or_the_settings(enabled: Any, setting: str, best: str, precision: str) -> None:
    result = filled({"bf16": {"enabled": enabled}}, f"train.precision={setting}", best=best)
    assert result.precision == precision
    assert result.tree["bf16"]["enabled"] == (precision == "bf16")


def test_precision_contradiction() -> None:
    with pytest.raises(ConfigError, match=r"bf16\.enabled.*train\.precision"):
        filled({"bf16": {"enabled": True}}, "train.precision=fp32")


@pytest.mark.parametrize("content", ["{", "[1, 2]", '"text"', b"\xff\xfe"])
def test_what_is_no_json_object_is_refused(tmp_path: Path, content: str | bytes) -> None:
    file = tmp_path / "ds.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=re.escape(str(file))):
        read_deepspeed_json(file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such DeepSpeed file"):
        read_deepspeed_json(tmp_path / "ds.json")


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.json")), ids=lambda file: file.stem)
def test_our_own_files_are_filled_completely(file: Path) -> None:
    nvme = ["train.nvme_path=/fast"] if file.stem == "zero3_nvme" else []
    result = filled(read_deepspeed_json(file), *nvme)
    assert result.layout == file.stem
    assert "auto" not in json.dumps(result.tree)


def offloading(optimizer: str, parameters: str = "none", stage: int = 3, **more: Any) -> dict[str, Any]:
    return {
        "zero_optimization": {
            "stage": stage,
            "offload_optimizer": {"device": optimizer, **more},
            "offload_param": {"device": parameters, **more},
        }
    }


@pytest.mark.parametrize(("device", "size"), [("cpu", int(0.9 * 2048 * 2048)), ("nvme", 0)])
def test_nothing_is_read_ahead_from_nvme(device: str, size: int) -> None:
    zero = {"stage": 3, "stage3_prefetch_bucket_size": "auto", "offload_param": {"device": device, "nvme_path": "/d"}}
    assert filled({"zero_optimization": zero}).tree["zero_optimization"]["stage3_prefetch_bucket_size"] == size


def test_the_folder_on_nvme_is_a_setting() -> None:
    tree = offloading("nvme", "nvme", nvme_path="auto")
    tree["zero_optimization"]["offload_param"]["buffer_size"] = "auto"
    result = filled(tree, "train.nvme_path=/fast").tree["zero_optimization"]
    assert result["offload_optimizer"]["nvme_path"] == result["offload_param"]["nvme_path"] == "/fast"
    assert result["offload_param"]["buffer_size"] >= 9 * 2048 * 2048  # the largest weight that a model this wide has
    assert filled(offloading("nvme", nvme_path="/fast")).layout == "zero3_nvme"  # the file's own, with no setting
    unused = filled(offloading("cpu", nvme_path="auto")).tree["zero_optimization"]
    assert unused["offload_optimizer"] == {"device": "cpu"}


@pytest.mark.parametrize(
    ("tree", "overrides", "names"),
    [
        (offloading("nvme", nvme_path="auto"), [], ["offloads to NVMe", "--set train.nvme_path=FOLDER"]),
        (
            offloading("nvme", nvme_path="/slow"),
            ["train.nvme_path=/fast"],
            ['offload_optimizer.nvme_path = "/slow"', 'train.nvme_path is "/fast"'],
        ),
        (offloading("cpu"), ["train.nvme_path=/fast"], ["train.nvme_path is /fast", "nothing to NVMe"]),
        (offloading("none", "cpu", stage=2), [], ['offload_param.device = "cpu"', "stage is 2", "stage 3"]),
        (offloading("cpu", stage=0), [], ['offload_optimizer.device = "cpu"', "stage is 0", "stage 1 or higher"]),
        (offloading("disk"), [], ['offload_optimizer.device = "disk"', "none, cpu or nvme"]),
        (
            offloading("nvme"),
            ["train.nvme_path=/fast", "train.ema.decay=0.9"],
            ['offload_optimizer.device = "nvme"', "train.ema.decay is 0.9"],
        ),
        (offloading("cpu"), ["train.fsdp.offload=true"], ["train.fsdp.offload", "engine fsdp", "zero3_offload.json"]),
    ],
)
def test_a_contradiction_about_offloading_names_both_sides(
    tree: dict[str, Any], overrides: list[str], names: list[str]
) -> None:
    with pytest.raises(ConfigError) as error:
        filled(tree, *overrides)
    for name in ["ds.json", *names]:
        assert name in str(error.value)


def read(tmp_path: Path, content: str | dict[str, Any]) -> dict[str, Any]:
    file = tmp_path / "ds.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_deepspeed_json(file)


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("zero_optimisation", "zero_optimization"),
        ("gradient_clipp1ng", "gradient_clipping"),
        ("train_micro_batch_size_per_gpus", "train_micro_batch_size_per_gpu"),
        ("bfloat-16", "bfloat16"),
    ],
)
def test_a_key_that_deepspeed_would_pass_over_is_refused(tmp_path: Path, key: str, near: str) -> None:
    with pytest.raises(ConfigError, match=rf"ds\.json: DeepSpeed does not know {key}: did you mean {near}\?$"):
        read(tmp_path, {"train_batch_size": "auto", key: 1})


def test_remarks_and_what_is_null_are_left_out(tmp_path: Path) -> None:
    tree = {"_note": "ours", "comment": "x", "bf16": None, "zero_optimization": {"stage": 2, "offload_param": None}}
    tree = read(tmp_path, tree)
    assert list(tree) == ["zero_optimization"]
    assert filled(tree).layout == "zero2"
    assert filled({"zero_optimization": {"offload_optimizer": None}}).layout == "zero0"


def test_comments_are_read_as_deepspeed_reads_them(tmp_path: Path) -> None:
    text = '{ // ours\n "zero_optimization": {"stage": 2}, # fast\n /* "bf16": 5 */ "wall_clock_breakdown": false}'
    assert read(tmp_path, text) == {"zero_optimization": {"stage": 2}, "wall_clock_breakdown": False}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"bf16": {"enabled": true},\n"bf16": {"enabled": false}}', 'line 2: "bf16" comes twice'),
        ('{"zero_optimization": {"stage": 1,\n"stage": 2}}', 'line 2: "stage" comes twice'),
        ("[" * 100_000, "line 1: nested too deep"),
        ('{"steps_per_print":\n' + "1" * 5000 + "}", "line 2: a number too long"),
        ('{"steps_per_print": 0}', "steps_per_print = 0: steps_per_print must be a number above 0"),
        ('{"steps_per_print": "x"}', 'steps_per_print = "x": steps_per_print must be a number above 0'),
        ('{"checkpoint": "x"}', 'checkpoint = "x": checkpoint must be an object'),
        ('{"data_types": 5}', "data_types = 5: data_types must be an object"),
        ('{"timers": "auto"}', 'timers = "auto": timers must be an object'),
        ('{"wall_clock_breakdown": 2}', "wall_clock_breakdown = 2: wall_clock_breakdown must be true or false"),
        ('{"communication_data_type": []}', "communication_data_type = []: communication_data_type must be text"),
    ],
)
def test_values_of_other_types_are_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        read(tmp_path, text)


def test_a_scheduler_of_no_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"ds\.json has scheduler\.type = \['WarmupLR'\]"):
        filled({"scheduler": {"type": ["WarmupLR"]}})


def test_what_needs_a_package_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(tmp_path, {"wandb": {"enabled": False}}) == {"wandb": {"enabled": False}}
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"ds\.json has wandb\.enabled, and wandb is not installed"):
        read(tmp_path, {"wandb": {"enabled": True}})


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.json")), ids=lambda file: file.name)
def test_our_own_files_are_read(file: Path) -> None:
    assert read_deepspeed_json(file) == json.loads(file.read_text())
