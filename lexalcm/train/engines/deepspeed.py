"""DeepSpeed's ZeRO stages 0 to 3 (Rajbhandari et al., arXiv 1910.02054) behind the engine protocol.

Decisions, and what they cost:

- The trainer says which micro-batch ends a step, and the loss comes already scaled, so that DeepSpeed neither
  counts micro-batches nor divides by their number. Its average over processes stays, and the scale allows for it.
- The optimizer is torch's fused AdamW over DeepSpeed's flat shards, with offloading too. It needs no compiler, and in
  the CPU's memory it is as fast as DeepSpeed's own CPU Adam, which takes a minute to build (docs/benchmarks.md).
- DeepSpeed compiles a C++ operator for communication between CPUs as soon as it starts (tens of seconds, and a
  failure without a compiler). Only inference uses it, so it is not asked for: see `import_deepspeed`.
- Where a gradient is not finite, DeepSpeed drops it without a look. So after a step that was skipped the next one's
  gradients are gathered before the update, to tell each one's norm should that be skipped too.
- DeepSpeed keeps the float32 truth in flat shards that each stage lays out in its own way. `deepspeed.utils` has
  functions that read a parameter's share back whole. Stage 0 shards nothing and has none: it is read directly.
- Parameters are loaded whole by every process before they are sharded: the peak at start-up is one model.
"""

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import partial
from types import ModuleType
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from lexalcm.data.batches.batch import Batch
from lexalcm.distributed.world import World
from lexalcm.errors import ConfigError, import_extra
from lexalcm.io.safetensors_writer import TensorSpec
from lexalcm.model.config import ModelConfig
from lexalcm.objective import Loss, Objective
from lexalcm.train.ema import MovingAverage
from lexalcm.train.engines.deepspeed_config import DeepSpeedSetup, fill, read_deepspeed_json
from lexalcm.train.engines.deepspeed_memory import LAYOUTS
from lexalcm.train.engines.gathering import gathered
from lexalcm.train.engines.protocol import Gather, MemoryUse, ReadTensor, Update
from lexalcm.train.memory.layout import Layout
from lexalcm.train.optimizer import MOMENTS, make_adamw, set_learning_rate
from lexalcm.train.settings import RunConfig, TrainSettings


class DeepSpeedEngine:
    """The model under DeepSpeed. In bf16 the parameters are bf16 and the optimizer's copy of them is float32."""

    name = "deepspeed"
    optimizers: tuple[str, ...] = ("adamw",)  # whose update of a number needs no other number of its matrix
    one_process = False
    needs_process_group = True

    @classmethod
    def layouts(cls) -> dict[str, Layout]:
        """See `Engine.layouts`."""
        return LAYOUTS

    @classmethod
    def auto_layout(cls, settings: TrainSettings) -> None:
        """See `Engine.auto_layout`; what it is to do, a file says."""

    @classmethod
    def requested_by(cls, config: RunConfig) -> str | None:
        """See `Engine.requested_by`."""
        return f"--deepspeed {config.deepspeed}" if config.deepspeed else None

    @classmethod
    def prepare(cls, config: RunConfig, model: ModelConfig, world: World, best: str) -> DeepSpeedSetup:
        """See `Engine.prepare`."""
        tree = read_deepspeed_json(config.deepspeed)
        setup = fill(tree, config, world_size=world.size, width=model.width, best=best)
        if config.train.compile is True and not LAYOUTS[setup.layout].compiles:
            raise ConfigError(
                f"train.compile goes with the other engines and ZeRO stages, but {setup.file} asks for stage 3, which "
                "gathers weights inside the layers: omit one of them, or use --engine fsdp"
            )
        import_deepspeed(world.device)
        return setup

    def __init__(
        self, objective: Objective, settings: TrainSettings, device: torch.device, setup: DeepSpeedSetup
    ) -> None:
        """Start DeepSpeed; the process group must be there.

        Raises:
            MissingExtraError: DeepSpeed is not installed.
            ConfigError: DeepSpeed does not accept the JSON.
        """
        deepspeed = import_deepspeed(device)
        self.model = model = objective.model
        self._fields = objective.fields
        self.precision = objective.precision = setup.precision
        self._stage = setup.stage
        self._device = device
        self._clip_norm = settings.clip_norm
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.shapes = {name: parameter.shape for name, parameter in self._parameters.items()}
        self._adamw = make_adamw(model.parameters(), settings)
        try:
            with _quiet():
                self._engine, *_ = deepspeed.initialize(model=objective, optimizer=self._adamw, config=setup.tree)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            raise ConfigError(f"{setup.file}: DeepSpeed says of {name}: {first['msg']}") from error
        except (ValueError, AssertionError, deepspeed.DeepSpeedConfigError) as error:
            raise ConfigError(f"{setup.file}: DeepSpeed says: {' '.join(str(error).split())}") from error
        except (TypeError, AttributeError, LookupError, ArithmeticError) as error:  # values of other types
            raise ConfigError(f"{setup.file}: DeepSpeed cannot read it: {' '.join(str(error).split())}") from error
        except RuntimeError as error:
            if "async_io" not in str(error):
                raise
            raise ConfigError(
                f"{setup.file} offloads to NVMe, and what reads from it cannot be built here: install g++ "
                "and libaio-dev (libaio-devel), or use configs/zero3_offload.json"
            ) from error
        self._deepspeed = deepspeed
        self._skipped = False  # the last step
        self._create_state(updates=0)
        decay = settings.ema.decay
        self.average = None if decay is None else MovingAverage(self._optimizer_tensors(), decay)

    def accumulate(self, batch: Batch, scale: float, last: bool) -> Loss:
        """See `Engine.accumulate`."""
        self._engine.train()
        self._engine.set_gradient_accumulation_boundary(last)
        loss: Loss = self._engine(**batch.on(self._device).inputs(self._fields))
        self._engine.backward(loss.scaled(scale), scale_wrt_gas=False)
        return loss.detached()

    def update(self, lr: float) -> Update:
        """See `Engine.update`."""
        set_learning_rate(self._adamw, lr)
        norms = self._gradient_norms() if self._skipped else {}
        if self._is_plain:  # DeepSpeed clips here too, but neither tells the norm nor looks whether it is finite
            norm = nn.utils.get_total_norm([p.grad for p in self._parameters.values() if p.grad is not None]).item()
            applied = norm < float("inf")
            if applied:
                self._engine.step()
            else:
                self._engine.zero_grad()
        else:
            self._engine.step()
            norm, applied = float(self._engine.get_global_grad_norm()), self._engine.was_step_applied()
        if applied and self.average is not None:
            self.average.update()
        self._skipped = not applied
        return Update(norm, applied, {} if applied else norms)

    def _gradient_norms(self) -> dict[str, float]:
        """The norm of each parameter's gradient of this step, gathered one at a time."""
        norms = {}
        for name, parameter in self._parameters.items():
            gradient = self._deepspeed.utils.safe_get_full_grad(parameter)
            if gradient is not None:
                norms[name] = torch.linalg.vector_norm(gradient, dtype=torch.float64).item()
        return norms

    @torch.no_grad()
    def loss(self, batch: Batch) -> Loss:
        """See `Engine.loss`."""
        self._engine.eval()
        return self._engine(**batch.on(self._device).inputs(self._fields))

    def weights(self) -> Mapping[str, Gather]:
        """See `Engine.weights`."""
        return {name: partial(self._whole, parameter, None) for name, parameter in self._parameters.items()}

    @property
    def state_layout(self) -> dict[str, TensorSpec]:
        """See `Engine.state_layout`."""
        return {f"{name}.{moment}": TensorSpec(shape) for name, shape in self.shapes.items() for moment in MOMENTS}

    def state(self) -> Mapping[str, Gather]:
        """See `Engine.state`."""
        return {
            f"{name}.{moment}": partial(self._whole, parameter, moment)
            for name, parameter in self._parameters.items()
            for moment in MOMENTS
        }

    @torch.no_grad()
    def restore(self, weights: ReadTensor, state: ReadTensor, average: ReadTensor | None, updates: int) -> None:
        """See `Engine.restore`."""
        self._create_state(updates)
        if self.average is not None:
            for name, parameter in self._parameters.items():
                self._set_weight(parameter, (average or weights)(name).to(self._device))
            self.average.restart(updates)
        for name, parameter in self._parameters.items():
            self._set_weight(parameter, weights(name).to(self._device))
            for moment in MOMENTS:
                self._set_moment(parameter, moment, state(f"{name}.{moment}").to(self._device))

    def memory(self) -> MemoryUse:
        """See `Engine.memory`."""
        parameters = [getattr(p, "ds_tensor", p) for p in self.model.parameters()]
        held = sum(parameter.nbytes for parameter in parameters)
        trained = sum(getattr(p, "ds_tensor", p).nbytes for p in self._parameters.values())
        shards = self._optimizer_tensors()
        own = {parameter.data_ptr() for parameter in parameters}
        moments = sum(self._adamw.state[shard][moment].nbytes for shard in shards for moment in MOMENTS)
        masters = sum(shard.nbytes for shard in shards if shard.data_ptr() not in own)
        gradients = (
            trained if self._stage < 2 else sum(shard.numel() for shard in shards) * parameters[0].element_size()
        )
        averaged = 0 if self.average is None else self.average.nbytes
        return MemoryUse(parameters=held, gradients=gradients, optimizer=masters + moments + averaged)

    def close(self) -> None:
        """See `Engine.close`; DeepSpeed remembers groups, and must forget them for another run in this process."""
        self._engine.destroy()
        self._deepspeed.comm.destroy_process_group()

    @property
    def _is_plain(self) -> bool:
        """Whether DeepSpeed runs AdamW on the parameters themselves."""
        return self._stage == 0 and self.precision == "fp32"

    def _optimizer_tensors(self) -> list[torch.Tensor]:
        """The float32 tensors that AdamW updates: flat shards, but whole parameters in stage 0."""
        if self._stage == 3:
            return list(self._engine.optimizer.fp32_partitioned_groups_flat)
        return [parameter for group in self._adamw.param_groups for parameter in group["params"]]

    def _create_state(self, updates: int) -> None:
        """Make AdamW's state now, so that it can be saved and restored before the first update.

        It belongs to DeepSpeed's shards, which only some stages put into the optimizer, so it is made by hand.
        """
        for number, shard in enumerate(self._optimizer_tensors()):
            with self._read_from_nvme(number):
                state = self._adamw.state[shard]
                if state:  # DeepSpeed knows these tensors
                    state["step"].fill_(updates)
                    torch._foreach_zero_([state[moment] for moment in MOMENTS])
                else:
                    state["step"] = torch.full((), float(updates), dtype=torch.float32, device=shard.device)
                    state.update({moment: torch.zeros_like(shard) for moment in MOMENTS})
        if self._stage in (1, 2):  # what links parameters to their share of the state; it is linked once
            self._engine.optimizer._hp_optimizer_states_linked = False
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    @contextmanager
    def _read_from_nvme(self, number: int) -> Iterator[None]:
        """Have a shard of stage 3 and its state in memory for a while, if they are on NVMe, and write them back."""
        optimizer = self._engine.optimizer
        swapped = self._stage == 3 and optimizer._swappable_optimizer_subgroup(number)
        if swapped:
            optimizer._optimizer_states_and_gradient_swap_in(number)
        yield
        if swapped:
            optimizer._optimizer_states_and_gradient_swap_out(number)

    def _whole(self, parameter: Any, moment: str | None, to: int | None) -> torch.Tensor:
        """A parameter's float32 weights or a moment of theirs; see `Gather`."""
        if self._stage == 0:
            master = self._master(parameter)
            return master.detach() if moment is None else self._adamw.state[master][moment]
        utils = self._deepspeed.utils
        if self._stage == 3 and to is not None:
            if moment is None:
                part = utils.safe_get_local_fp32_param(parameter)
            else:
                part = utils.safe_get_local_optimizer_state(parameter, moment)
            return gathered(part, parameter.ds_shape, to)
        if moment is None:
            return utils.safe_get_full_fp32_param(parameter)
        return utils.safe_get_full_optimizer_state(parameter, moment)

    def _master(self, parameter: nn.Parameter) -> torch.Tensor:
        """Stage 0's float32 weights: the parameter itself, or DeepSpeed's copy of a bf16 one."""
        if self._is_plain:
            return parameter
        optimizer = self._engine.optimizer
        for group, masters in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
            for candidate, master in zip(group, masters, strict=True):
                if candidate is parameter:
                    return master
        raise KeyError("a parameter that DeepSpeed's optimizer does not hold")

    def _set_weight(self, parameter: nn.Parameter, value: torch.Tensor) -> None:
        if self._stage == 0:
            self._master(parameter).copy_(value)
        elif self._stage == 3:
            self._set_share(parameter, value)
        else:
            self._deepspeed.utils.safe_set_full_fp32_param(parameter, value)

    def _set_moment(self, parameter: nn.Parameter, moment: str, value: torch.Tensor) -> None:
        if self._stage == 0:
            self._adamw.state[self._master(parameter)][moment].copy_(value)
        elif self._stage == 3:
            self._set_share(parameter, value, moment)
        else:
            self._deepspeed.utils.safe_set_full_optimizer_state(parameter, value, moment)

    def _set_share(self, parameter: nn.Parameter, value: torch.Tensor, moment: str | None = None) -> None:
        """What `safe_set_local_fp32_param` does, for a parameter that has been swapped out to NVMe too."""
        optimizer = self._engine.optimizer
        partition, group = optimizer._get_fp32_opt_state_partition(
            parameter, release_swap_buffers=False, optim_state_key=moment
        )
        partition.copy_(_share(parameter, value))
        if optimizer._swappable_optimizer_subgroup(group):
            optimizer._optimizer_states_and_gradient_swap_out(group)


def _share(parameter: Any, value: torch.Tensor) -> torch.Tensor:
    """This process's part of a value that stage 3 shards: equal parts, the last one filled up with zeros."""
    size = parameter.ds_tensor.ds_numel
    start = size * torch.distributed.get_rank()
    flat = value.flatten()[start : start + size]
    return nn.functional.pad(flat, (0, size - flat.numel()))


def import_deepspeed(device: torch.device) -> ModuleType:
    """Import DeepSpeed for this device, without its operators that only a compiler can bring.

    Raises:
        MissingExtraError: it is not installed.
    """
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # it says so on stdout where it has to find out
    with _quiet():
        deepspeed = import_extra("deepspeed", "deepspeed", "--deepspeed")
        import_extra("deepspeed.comm.torch", "deepspeed", "--deepspeed")
    # `deepspeed.comm.torch` as an attribute is torch itself; the module is found under its name alone.
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed|deepspeed")
    warnings.filterwarnings("ignore", "barrier\\(\\): using the device under current context")  # its own barriers
    return deepspeed


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what DeepSpeed prints while it starts off our standard output, which programs read."""
    with redirect_stdout(sys.stderr):
        yield
