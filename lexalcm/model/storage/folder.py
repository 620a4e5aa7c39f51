"""A model on disk: `config.json`, `model.safetensors`, `generation_config.json` and a card, `README.md`.

Each file is written beside its goal and renamed, the config last, so that a folder with a config is complete. Nothing
is unpickled. Reading checks names and shapes before it touches a weight, and needs the weights' size in memory once.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lexalcm.config import validate
from lexalcm.errors import ConfigError, UserError
from lexalcm.io.atomic import atomic_file, write_text
from lexalcm.io.reading import reading
from lexalcm.json_text import JSONError, parse_json
from lexalcm.model.config import ModelConfig
from lexalcm.model.create import count_parameters, meta_model
from lexalcm.model.lcm import LCM
from lexalcm.model.storage.locate import CONFIG_FILE, find_model

WEIGHTS_FILE = "model.safetensors"
GENERATION_FILE = "generation_config.json"
CARD_FILE = "README.md"

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
LOCAL_ROOTS = ("models/", "runs/")  # where this project keeps models: never names of the hub
MAX_LISTED = 20


def write_model(
    folder: Path, config: ModelConfig, write_weights: Callable[[Path], object], generation_config: Mapping[str, Any]
) -> None:
    """Write a model folder; for a whole new folder at once, call it inside `atomic.atomic_folder`.

    Args:
        folder: exists already; what it holds under the same names is replaced.
        config: sizes and objective.
        write_weights: writes all weights and buffers under the model's names to the safetensors file that it is given.
        generation_config: generation options that suit these weights.
    """
    (folder / CONFIG_FILE).unlink(missing_ok=True)
    with atomic_file(folder / WEIGHTS_FILE) as temporary:
        write_weights(temporary)
    write_text(folder / GENERATION_FILE, json.dumps(dict(generation_config), indent=2) + "\n")
    write_text(folder / CARD_FILE, model_card(config))
    write_text(folder / CONFIG_FILE, json.dumps(config.model_dump(mode="json"), indent=2) + "\n")


def write_state(file: Path, state: Mapping[str, Tensor]) -> None:
    """Write weights and buffers that are all in memory, as safetensors."""
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, file, metadata={"format": "pt"})


def load_model(path_or_id: str | Path, **hub_options: Any) -> LCM:
    """Load a model, in evaluation mode, on the CPU, in the type of its saved weights.

    Args:
        path_or_id: a model folder, the folder of a run that has exported its model, or a hub id `"name/model"`.
        hub_options: passed to `huggingface_hub.snapshot_download`, e.g. `revision`, `token`.

    Raises:
        UserError: no such folder or hub model, no config, weights missing, truncated, or not those of the config, or a
            normalizer that cannot be used.
        ConfigError: a config with unknown keys or contradicting sizes.
    """
    folder = model_folder(path_or_id, **hub_options)
    model = read_model(folder)
    model.normalizer.check(str(folder / WEIGHTS_FILE))
    return model


def read_model(folder: Path) -> LCM:
    """`load_model` of a model folder whose numbers may be any: for those who look into what is wrong with them.

    Raises:
        UserError: no config, weights missing, truncated, or not those of the config.
        ConfigError: a config with unknown keys or contradicting sizes.
    """
    config = read_config(folder)
    state = _read_weights(folder)
    model = meta_model(config)
    check_state(model, state, str(folder / WEIGHTS_FILE))
    model.load_state_dict(state, assign=True)
    model.generation_config = read_generation_config(folder)
    model.folder = folder
    return model.eval()


def model_folder(path_or_id: str | Path | None = None, **hub_options: Any) -> Path:
    """The folder of a model; one of the hub is fetched, or taken from where it was fetched to before.

    Args:
        path_or_id: a model folder, the folder of a run that has exported its model, or a hub id `"name/model"`; none:
            the newest run's.
        hub_options: passed to `huggingface_hub.snapshot_download`, e.g. `revision`, `token`.

    Raises:
        UserError: no such folder or hub model, or no config in it.
    """
    if path_or_id is not None and _is_hub_id(str(path_or_id)):
        return _download(str(path_or_id), hub_options)
    return find_model(path_or_id)


def read_config(folder: Path) -> ModelConfig:
    """Read a model folder's config.

    Raises:
        ConfigError: not JSON, an unknown key, or sizes that contradict each other.
    """
    return validate(ModelConfig, _read_json(folder / CONFIG_FILE), source=str(folder / CONFIG_FILE))


def read_generation_config(folder: Path) -> dict[str, Any]:
    """The generation options that a model folder keeps; none where it keeps none.

    Raises:
        ConfigError: not JSON.
    """
    return _read_json(folder / GENERATION_FILE) if (folder / GENERATION_FILE).exists() else {}


def check_state(model: LCM, state: Mapping[str, Tensor], source: str) -> None:
    """Make sure that weights are those of a model: same names, same shapes.

    Raises:
        UserError: lists what is missing, unknown or of another shape.
    """
    expected = model.state_dict()
    missing, unknown = expected.keys() - state.keys(), state.keys() - expected.keys()
    if missing or unknown:
        raise UserError(f"{source} does not fit its config: {describe_names(missing, unknown)}")
    check_shapes(model, state, source)


def check_shapes(model: LCM, state: Mapping[str, Tensor], source: str) -> None:
    """Make sure that weights of the right names have the model's shapes, and hold fractions where it does.

    Raises:
        UserError: names the first that has not.
    """
    for name, expected in model.state_dict().items():
        if state[name].shape != expected.shape:
            raise UserError(
                f"{source} does not fit its config: {name} has shape {list(state[name].shape)}, "
                f"the config asks for {list(expected.shape)}"
            )
        if state[name].is_floating_point() != expected.is_floating_point():
            held = str(state[name].dtype).removeprefix("torch.")
            raise UserError(f"{source} does not fit its config: {name} holds {held}")


def describe_names(missing: set[str], unknown: set[str]) -> str:
    """Which parameters are missing and which unknown, in words."""
    parts = [f"{kind} {list_names(names)}" for kind, names in (("missing", missing), ("unknown", unknown)) if names]
    return "; ".join(parts)


def list_names(names: set[str]) -> str:
    """The first few names in order, and how many more there are."""
    shown = sorted(names)[:MAX_LISTED]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def model_card(config: ModelConfig) -> str:
    """The card of a model folder, in the form that the hub reads."""
    parts = count_parameters(config)
    codec = f"`{config.codec.name}` (fingerprint `{config.codec.fingerprint}`)" if config.codec else "not recorded"
    rows = "\n".join(f"| {name.replace('_', ' ')} | {count:,} |" for name, count in parts.items())
    return f"""---
library_name: lexalcm
tags:
- large-concept-model
---

# Large Concept Model, {config.architecture}

Reads and writes text one sentence embedding at a time (arXiv 2412.08821).

| part | parameters |
|---|---|
{rows}
| **all** | **{sum(parts.values()):,}** |

Concepts: {config.dim} numbers each, codec {codec}. Sizes and training objective are in `config.json`.

```python
from lexalcm.model import LCM

model = LCM.from_pretrained("path/to/this/folder")
for sentence in model.generate("We must do more for our schools."):
    print(sentence)
```
"""


def _is_hub_id(name: str) -> bool:
    is_local = name.startswith(LOCAL_ROOTS) or Path(name).exists() or Path(name).parent.exists()
    return HUB_ID.fullmatch(name) is not None and not is_local


def _download(model_id: str, hub_options: dict[str, Any]) -> Path:
    try:
        return find_model(snapshot_download(model_id, **hub_options))
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"no folder {model_id} here, and the hub model of that name cannot be fetched: check the network"
        ) from error
    except (HfHubHTTPError, HFValidationError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"no folder {model_id} here, and the hub answers: {reason}") from error
    except OSError as error:
        raise UserError(f"cannot fetch {model_id} from the hub: {error}") from error


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = parse_json(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    except JSONError as error:
        raise ConfigError(f"{file} is not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file} must hold a JSON object")
    return content


def _read_weights(folder: Path) -> dict[str, Tensor]:
    file = folder / WEIGHTS_FILE
    missing = f"{folder} has no {WEIGHTS_FILE}: it is not a complete model folder"
    damaged = f"{file} is truncated or damaged: copy or export the model again"
    with reading(file, "", UserError, missing=missing, damaged=damaged):
        return load_file(file)
