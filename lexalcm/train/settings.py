"""All settings of `lcm train`, composed from those of its parts."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator
from typing_extensions import Self

from lexalcm.config import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Probability, Settings
from lexalcm.data.settings import DataSettings
from lexalcm.errors import nearest
from lexalcm.registries import ENGINES, OBJECTIVES
from lexalcm.train.checkpoint.settings import CheckpointSettings
from lexalcm.train.engines.settings import FSDPSettings
from lexalcm.train.monitor.settings import SampleSettings, WandbSettings, WatchSettings

ActivationCheckpointing = Annotated[
    str, Field(pattern="^(none|full|every-[1-9][0-9]*)$", title="none, full, every-2, every-3, ...")
]

OTHER_NAMES = {
    "batch_size": "data.micro_batch or data.global_batch",
    "per_device_train_batch_size": "data.micro_batch",
    "gradient_accumulation_steps": "data.global_batch",
    "seq_len": "data.row_length",
    "max_seq_length": "data.row_length",
    "dataset": "data.path",
    "max_steps": "train.steps",
    "num_epochs": "train.steps",
    "num_train_epochs": "train.steps",
    "learning_rate": "train.lr",
    "lr_scheduler_type": "train.schedule",
    "warmup": "train.warmup_steps",
    "warmup_ratio": "train.warmup_steps",
    "max_grad_norm": "train.clip_norm",
    "gradient_checkpointing": "train.activation_checkpointing",
    "bf16": "train.precision",
    "fp16": "train.precision",
    "mixed_precision": "train.precision",
    "logging_steps": "train.log_every",
    "eval_steps": "train.validate_every",
    "save_steps": "train.checkpoint.every",
    "save_total_limit": "train.checkpoint.keep",
    "output_dir": "name",
}
"""What other trainers call our settings."""


def _check_engine(name: str) -> str:
    known = ["auto", *ENGINES.names()]
    if name not in known:
        raise ValueError(f"unknown engine {name!r}{nearest(name, known)}")
    return name


EngineName = Annotated[str, AfterValidator(_check_engine), Field(title=", ".join(["auto", *ENGINES.names()]))]


class EMASettings(Settings):
    """An exponential moving average of the weights, exported in their place."""

    decay: Probability | None = None
    """How much of the average is kept at a step, e.g. 0.999; null: no average."""


class TrainSettings(Settings):
    """Optimization and everything around it."""

    steps: PositiveInt = 300
    """Optimizer steps in all."""
    seed: NonNegativeInt = 0
    """Of the order of documents, and of noise and dropout."""
    objective: Annotated[str, Field(title=", ".join(["auto", *OBJECTIVES.names()]))] = "auto"
    """The loss, by name; auto: that of the model's architecture."""
    engine: EngineName = "auto"
    """How the model is held and updated over processes; auto: chosen by processes and memory."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the computation; auto: bf16 with float32 master weights on a GPU that has it, else fp32."""
    fsdp: FSDPSettings = FSDPSettings()
    nvme_path: str | None = None
    """A folder on a fast local disk, for DeepSpeed files that offload to NVMe."""
    activation_checkpointing: ActivationCheckpointing = "none"
    """Layers whose activations are computed again instead of kept: none, all, or every N-th."""
    compile: Literal["auto", True, False] = "auto"
    """Compile the layers with torch.compile; auto: on a GPU, for models where it pays."""
    freeze: tuple[str, ...] = ()
    """Parameters that stay as they are: names, or patterns such as contextualizer.*"""
    optimizer: Literal["adamw", "adafactor", "adamw8bit", "muon"] = "adamw"
    """What updates the weights."""
    lr: PositiveFloat = 1e-3
    """The learning rate at its highest, after the warm-up."""
    betas: tuple[Probability, Probability] = (0.9, 0.95)
    """How much of the mean of gradients, and of their squares, AdamW keeps at a step."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator of AdamW's update."""
    weight_decay: NonNegativeFloat = 0.1
    """Of matrices; norms and biases do not decay."""
    clip_norm: PositiveFloat = 1.0
    """The largest norm of the whole gradient; longer ones are scaled down to it."""
    schedule: Literal["cosine", "linear", "constant", "warmup-stable-decay"] = "cosine"
    """How the learning rate falls after the warm-up."""
    warmup_steps: NonNegativeInt = 40
    """Steps in which the learning rate rises linearly from zero."""
    decay_steps: PositiveInt | None = None
    """Last steps, in which warmup-stable-decay falls; null: a tenth of all."""
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    """The learning rate at the end, as a share of the highest."""
    log_every: PositiveInt = 10
    """Steps between two lines of metrics."""
    validate_every: PositiveInt = 100
    """Steps between two validations."""
    timeout: PositiveFloat = 1800.0
    """Seconds that a process may keep the others waiting before the run is ended."""
    max_bad_steps: PositiveInt = 10
    """Skipped steps in a row (NaN or infinite gradient) that stop the run."""
    ema: EMASettings = EMASettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    peak_tflops: PositiveFloat | None = None
    """Of one device, for MFU (model FLOPs utilization); null: as known for the GPU."""
    watch: WatchSettings = WatchSettings()
    samples: SampleSettings = SampleSettings()
    wandb: WandbSettings = WandbSettings()

    @model_validator(mode="after")
    def _decay_steps_belong_to_a_schedule(self) -> Self:
        if self.decay_steps is not None and self.schedule != "warmup-stable-decay":
            raise ValueError(
                f"decay_steps belongs to the schedule warmup-stable-decay, and schedule is {self.schedule}"
            )
        return self


class RunConfig(Settings):
    """All settings of one `lcm train`; saved as `config.yaml` in the run folder."""

    other_names: ClassVar[Mapping[str, str]] = OTHER_NAMES

    model: str = "models/base"
    """Model folder, or id on the Hugging Face Hub, to begin from."""
    name: str | None = None
    """The run's name, whose folder is runs/NAME; null: the model folder's name."""
    deepspeed: str | None = None
    """A DeepSpeed JSON file; "auto" values in it are filled in."""
    data: DataSettings = DataSettings()
    train: TrainSettings = TrainSettings()
