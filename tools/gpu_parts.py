"""The parts of `tools.check_gpu`: what is checked on a GPU, and what is right there."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from lexalcm.config import load_settings
from lexalcm.data.batches.batch import Batch
from lexalcm.generate.autoregressive import generate
from lexalcm.generate.options import GenerationOptions
from lexalcm.generate.predictor import prepare
from lexalcm.model.config import AttentionKernel
from lexalcm.model.create import create_model
from lexalcm.model.flops import training_flops
from lexalcm.model.layers import masks
from lexalcm.model.layers.attention import mix_values
from lexalcm.model.presets import PUBLISHED_DIM, preset
from lexalcm.objective import create_objective
from lexalcm.train.engines.choose import EngineChoice, start_engine
from lexalcm.train.engines.protocol import Setup
from lexalcm.train.engines.single import SingleEngine
from lexalcm.train.memory.plan import plan_memory
from lexalcm.train.prefetch import Prefetcher
from lexalcm.train.run.main import read_run_config, train
from lexalcm.train.settings import RunConfig
from tools.bench_train_step import FIXED
from tools.matrix_rate import matrix_rate, now
from tools.part_runner import CheckResult, Part

ROOT = Path(__file__).parents[1]
GIB = 2**30
STEPS = 12
CURVE = ["data.path=data/sample", "train.warmup_steps=4", "train.log_every=1", "train.validate_every=1000"]
CURVE += ["train.samples.every=0", "train.checkpoint.every=4", f"train.steps={STEPS}", "data.micro_batch=4"]
ENGINES = {
    "ddp": ["train.engine=ddp"],
    "fsdp": ["train.engine=fsdp"],
    **{f"zero{stage}": [f"deepspeed={ROOT}/configs/zero{stage}.json"] for stage in range(4)},
    "fsdp offload": ["train.engine=fsdp", "train.fsdp.offload=true"],
    "zero2 offload": [f"deepspeed={ROOT}/configs/zero2_offload.json"],
    "zero3 offload": [f"deepspeed={ROOT}/configs/zero3_offload.json"],
    "zero3 nvme": [f"deepspeed={ROOT}/configs/zero3_nvme.json", "train.nvme_path=nvme"],
}
HALF = 0.02
"""Largest relative difference of a step's loss in bf16, whose products keep eight bits, over a dozen steps."""
EXACT = 1e-4
PLAN = 0.1


def typed() -> Iterator[CheckResult]:
    """The README's four lines."""
    _configs()
    for line in (
        ["data", "sample"],
        ["bootstrap"],
        ["train", "--deepspeed", "configs/zero2.json", "--name", "typed"],
        ["infer", "--model", "runs/typed", "We must do more for our schools."],
    ):
        began = time.monotonic()
        code = _lcm(line)
        seconds = time.monotonic() - began
        yield CheckResult(f"lcm {' '.join(line)}", "exit code 0", f"exit code {code}, {seconds:.0f} s", code == 0)
    first, last = (_losses(Path("runs/typed"))[place] for place in (0, -1))
    yield CheckResult("the loss falls", f"below {0.9 * first:.1f}", f"{last:.1f}", last < 0.9 * first)


def attention() -> Iterator[CheckResult]:
    """FlexAttention against the boolean mask, forward and backward."""
    device, generator = torch.device("cuda"), torch.Generator("cuda").manual_seed(0)
    documents = (torch.arange(256, device=device) // 60).expand(2, -1)
    q, k, v, g = (torch.randn(2, 4, 256, 64, device=device, generator=generator).bfloat16() for _ in range(4))

    def results(kernel: AttentionKernel) -> list[Tensor]:
        inputs = [x.clone().requires_grad_() for x in (q, k, v)]
        with torch.autocast("cuda", torch.bfloat16):
            mixed = mix_values(inputs[0], inputs[1], inputs[2], masks.causal_mask(documents, kernel))
        return [mixed, *torch.autograd.grad(mixed, inputs, g)]

    began = time.monotonic()
    flex = results("auto")
    seconds = time.monotonic() - began
    worst = max(_difference(a, b) for a, b in zip(flex, results("sdpa"), strict=True))
    yield CheckResult(
        f"FlexAttention in bf16 (first use: {seconds:.0f} s)", f"within {HALF:.0%}", f"{worst:.2%}", worst < HALF
    )


def curves() -> Iterator[CheckResult]:
    """A base model's loss curve, in which nothing is random, against the CPU's; every engine's against `single`."""
    os.environ.setdefault("DS_SKIP_CUDA_CHECK", "1")
    from deepspeed.ops.op_builder import AsyncIOBuilder

    base, two_tower = (f"model={_model(name, 'model.dropout=0')}" for name in ("base-tiny", "two-tower-tiny"))
    on_cpu = _curve("cpu", [base, "train.precision=fp32"], cpu=True)
    for precision, bound in (("fp32", EXACT), ("bf16", HALF)):
        curve = _curve(f"base-{precision}", [base, f"train.precision={precision}"])
        yield _like(f"single in {precision}, the loss of {STEPS} steps as on the CPU", curve, on_cpu, bound)
    single = _curve("single", [two_tower])
    for engine, settings in ENGINES.items():
        if "nvme" in engine and not AsyncIOBuilder().is_compatible():
            yield CheckResult(f"{engine} in bf16", "as single", "not tried: DeepSpeed finds no libaio here", ok=True)
            continue
        try:
            curve = _curve(engine.replace(" ", "-"), [two_tower, *settings])
        except Exception as error:  # noqa: BLE001  the others are still to be seen
            yield CheckResult(
                f"{engine} in bf16", f"as single within {HALF:.0%}", f"{type(error).__name__}: {error}", ok=False
            )
        else:
            yield _like(f"{engine} in bf16, the loss as under single", curve, single, HALF)


def resume() -> Iterator[CheckResult]:
    """A run that is killed and goes on, against one that was never killed: the same to the last bit."""
    model = _model("two-tower-tiny")
    train(read_run_config(None, [*CURVE, f"model={model}", "name=whole"], "never"), resume="never", overwrite=True)
    command = ["train", "--name", "killed", "--resume", "never", "--overwrite", "--model", model]
    process = subprocess.Popen([*_LCM, *command, *_set(CURVE)], env=_environment())
    while process.poll() is None and not Path("runs/killed/checkpoints/step_00000004").exists():
        time.sleep(0.02)
    process.kill()
    process.wait()
    train(read_run_config(None, [*CURVE, f"model={model}", "name=killed"], "auto"))
    losses = [_losses(Path("runs") / name) for name in ("whole", "killed")]
    weights = [load_file(Path("runs") / name / "model/model.safetensors") for name in ("whole", "killed")]
    other = [name for name, value in weights[0].items() if not torch.equal(value, weights[1][name])]
    same = losses[0] == losses[1] and not other
    yield CheckResult(
        "losses and weights after a kill", "bit-equal", "bit-equal" if same else f"{len(other)} tensors differ", same
    )


def stopping() -> Iterator[CheckResult]:
    """A signal while the first step compiles."""
    output = Path("stopped.txt")
    model = _model("two-tower-tiny")
    command = ["train", "--name", "stopped", "--model", model, *_set([*CURVE, "train.compile=true"])]
    fresh = _environment() | {"TORCHINDUCTOR_CACHE_DIR": str(Path("fresh_cache").resolve())}
    with output.open("w") as file:
        process = subprocess.Popen([*_LCM, *command], env=fresh, stderr=file)
        while process.poll() is None and "compiling" not in output.read_text():
            time.sleep(0.05)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        code = process.wait()
    seconds = time.monotonic() - began
    yield CheckResult(
        "SIGTERM while compiling",
        "ends within 10 s, code 0",
        f"{seconds:.1f} s, code {code}",
        seconds < 10 and code == 0,
    )


def memory() -> Iterator[CheckResult]:
    """The most memory that steps take against the plan."""
    cases = [("two-tower-small", "none", False), ("two-tower-small", "full", False), ("base-small", "none", False)]
    cases += [("one-tower-small", "none", False), ("two-tower-small", "none", True), ("two-tower-small", "full", True)]
    for name, checkpointing, compiled in cases:
        rows = ["data.micro_batch=32", "data.row_length=256", "data.global_batch=2"]
        step = _Steps(name, rows, compiled=compiled, checkpointing=checkpointing)
        step.take(2)
        planned = step.planned()
        off = planned / step.peak - 1
        how = f"{'compiled' if compiled else 'eager'}, checkpointing {checkpointing}"
        yield CheckResult(
            f"plan of {name}, {how}",
            f"{step.peak / GIB:.2f} GiB within 10%",
            f"{planned / GIB:.2f} GiB ({off:+.1%})",
            abs(off) <= PLAN,
        )
        step.close()


def speed() -> Iterator[CheckResult]:
    """Training steps of the published 1.6B model."""
    rate = matrix_rate(torch.device("cuda"), torch.bfloat16, 8192)
    for compiled, micro_batches, least in ((False, 1, 0.30), (True, 1, 0.56), (True, 8, 0.65)):
        rows = ["data.micro_batch=16", "data.row_length=512", f"data.global_batch={micro_batches}"]
        step = _Steps("two-tower-1.6b", rows, compiled=compiled)
        began = now(step.device)
        step.take(2)
        first = now(step.device) - began
        began = now(step.device)
        step.take(4)
        seconds = (now(step.device) - began) / 4
        concepts = 16 * 512 * micro_batches
        mfu = training_flops(step.model, concepts, 512) / seconds / rate
        off = step.planned() / step.peak - 1
        how = f"1.6B {'compiled' if compiled else 'eager'}, 16 x 512, {micro_batches} micro-batches"
        yield CheckResult(
            f"{how} (first two steps {first:.0f} s)",
            f"MFU {least:.0%}",
            f"{concepts / seconds:,.0f} concepts/s, MFU {mfu:.1%} of {rate / 1e12:.0f} TFLOP/s",
            mfu >= least,
        )
        yield CheckResult(
            f"plan, {how}",
            f"{step.peak / GIB:.1f} GiB within 10%",
            f"{step.planned() / GIB:.1f} GiB ({off:+.1%})",
            abs(off) <= PLAN,
        )
        step.close()


def generation() -> Iterator[CheckResult]:
    """The next concept of the fixed 50M model, 50 guided steps, with and without graphs."""
    device = torch.device("cuda")
    model = create_model(FIXED, seed=0).to(device).eval()
    options = GenerationOptions.for_model({}, sampler="ddim", steps=50, guidance_scale=3.0)
    for rows, most in ((1, 0.02), (64, 0.06)):
        prompts = [torch.randn(32, FIXED.dim, generator=torch.Generator().manual_seed(row)) for row in range(rows)]
        concepts, times = {}, {}
        for graphs in (True, False):
            predictor = prepare(model, options, graphs=graphs)
            seconds = []
            for concept in generate(predictor, prompts, list(range(rows)), 8):
                seconds.append(now(device))
                concepts[graphs] = concept
            times[graphs] = statistics.median(after - before for before, after in pairwise(seconds[2:]))
        off = _difference(concepts[True], concepts[False])
        yield CheckResult(
            f"50M, 50 guided steps, batch {rows}",
            f"{most} s",
            f"{times[True]:.4f} s (without graphs {times[False]:.3f} s)",
            times[True] <= most,
        )
        yield CheckResult(f"concepts with graphs as without, batch {rows}", "within 0.001", f"{off:.1e}", off < 1e-3)


def embedding() -> Iterator[CheckResult]:
    """Sentences a second of an encoder of SONAR's size."""
    command = [sys.executable, "-m", "tools.bench_embed", "--device", "cuda"]
    result = subprocess.run(command, cwd=ROOT, env=_environment(), stdout=subprocess.PIPE, text=True, check=False)
    print(result.stdout)
    yield CheckResult("tools.bench_embed", "exit code 0", f"exit code {result.returncode}", result.returncode == 0)


def cap() -> Iterator[CheckResult]:
    """The recipe for 12 GB, on a GPU that gives no more."""
    _configs()
    model = _model("two-tower-1.6b")
    fraction = "12 * 2**30 / torch.cuda.get_device_properties(0).total_memory"
    capped = f"import torch; torch.cuda.set_per_process_memory_fraction({fraction})"
    script = f"{capped}; from lexalcm.cli.entry import main; main()"
    line = ["train", "--config", "configs/rtx4070ti_12gb.yaml", "--model", model, "--data", "data/sample", "--dry-run"]
    line += _set(["data.global_batch=2", "data.num_workers=0"])
    code = subprocess.run([sys.executable, "-c", script, *line], env=_environment(), check=False).returncode
    yield CheckResult("two steps of 1.6B in 12 GB", "exit code 0", f"exit code {code}", code == 0)


def tests() -> Iterator[CheckResult]:
    """The unit tests that need a GPU."""
    command = [sys.executable, "-m", "pytest", "--gpu", "-q", "-p", "no:cacheprovider", "--tb=short", "tests/unit"]
    code = subprocess.run(command, cwd=ROOT, env=_environment(), check=False).returncode
    yield CheckResult("unit tests", "exit code 0", f"exit code {code}", code == 0)


PARTS = {
    "typed": Part(typed, 120),
    "attention": Part(attention, 60),
    "curves": Part(curves, 150),
    "resume": Part(resume, 60),
    "stopping": Part(stopping, 60),
    "memory": Part(memory, 120),
    "speed": Part(speed, 150),
    "generation": Part(generation, 60),
    "embedding": Part(embedding, 90),
    "cap": Part(cap, 150),
    "tests": Part(tests, 120),
}
"""By name, in the order of their worth."""

_LCM = [sys.executable, "-m", "lexalcm"]


class _Steps:
    """Training steps of a preset on random rows, as the engine `single` takes them."""

    def __init__(self, name: str, settings: list[str], *, compiled: bool, checkpointing: str = "none") -> None:
        self.device = torch.device("cuda")
        self.config = load_settings(
            RunConfig,
            None,
            [*settings, f"train.activation_checkpointing={checkpointing}", f"train.compile={str(compiled).lower()}"],
        )
        self.model = preset(name, PUBLISHED_DIM)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        self._before = torch.cuda.memory_allocated()
        with self.device:
            model = create_model(self.model, 0)
        setup = Setup("bf16", SingleEngine.name)
        choice = EngineChoice(SingleEngine, setup, checkpointing=checkpointing, compiled=compiled)
        self._engine = start_engine(choice, create_objective(model), self.config.train, self.device)
        self._batches = Prefetcher(self._rows(), self.device)

    def take(self, steps: int) -> None:
        """Take some steps."""
        data = self.config.data
        for _ in range(steps):
            for left in reversed(range(data.global_batch)):
                self._engine.accumulate(next(self._batches), 1e-4, last=left == 0)
                self._batches.fetch()
            self._engine.update(1e-5)

    @property
    def peak(self) -> int:
        """The most bytes of tensors so far."""
        return torch.cuda.max_memory_allocated() - self._before

    def planned(self) -> int:
        """What the plan says of it."""
        checkpointing = (self.config.train.activation_checkpointing,)
        plan = plan_memory(
            self.config, self.model, processes=1, precision="bf16", engines=("single",), checkpointing=checkpointing
        )
        return plan.estimates[0].total

    def close(self) -> None:
        """Free the memory."""
        self._engine.close()
        del self._engine, self._batches

    def _rows(self) -> Iterator[Batch]:
        data = self.config.data
        shape = (data.micro_batch, data.row_length)
        positions = torch.arange(data.row_length).expand(shape).contiguous()
        embeddings = torch.randn(*shape, PUBLISHED_DIM, generator=torch.Generator().manual_seed(0)).half()
        number = 0
        while True:
            yield Batch(embeddings, torch.zeros_like(positions), positions, positions > 0, number).pin_memory()
            number += 1


def _configs() -> None:
    if not Path("configs").exists():
        Path("configs").symlink_to(ROOT / "configs")


def _model(name: str, *settings: str) -> str:
    """A new model of a preset on the packaged text, if it is not there."""
    folder = f"models/{'-'.join([name, *settings]).replace('=', '')}"
    if not Path(folder).exists():
        _lcm(["data", "sample"])
        _lcm(["bootstrap", "--preset", name, "--out", folder, *_set(list(settings))])
    return folder


def _lcm(line: list[str]) -> int:
    return subprocess.run([*_LCM, *line], env=_environment(), check=False).returncode


def _environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path}


def _set(settings: list[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def _curve(name: str, settings: list[str], *, cpu: bool = False) -> list[float]:
    """The losses of a training's steps."""
    if cpu:
        hidden = _environment() | {"CUDA_VISIBLE_DEVICES": ""}
        command = ["train", "--name", name, "--resume", "never", "--overwrite", *_set([*CURVE, *settings])]
        subprocess.run([*_LCM, *command], env=hidden, check=True)
    else:
        train(read_run_config(None, [*CURVE, *settings, f"name={name}"], "never"), resume="never", overwrite=True)
    return _losses(Path("runs") / name)


def _losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def _like(what: str, curve: list[float], right: list[float], bound: float) -> CheckResult:
    worst = max(abs(a / b - 1) for a, b in zip(curve, right, strict=True))
    return CheckResult(what, f"within {bound:g}", f"{worst:.1e}", worst <= bound)


def _difference(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest number."""
    a, b = a.detach().float(), b.detach().float()
    return float((a - b).abs().max() / b.abs().max())
