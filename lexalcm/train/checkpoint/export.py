"""What a training has come to, as a model folder that `lcm infer` loads.

The weights go from the checkpoint's files to the model's, one tensor at a time: no process ever holds them all.
"""

from pathlib import Path

from lexalcm.io.atomic import atomic_folder
from lexalcm.io.safetensors_writer import TensorSpec, write_tensors
from lexalcm.model.storage.folder import load_model, write_model
from lexalcm.model.storage.sidecar_files import copy_sidecar_files
from lexalcm.train.checkpoint.format import final_weights


def export_model(checkpoint: Path, model: str, dataset: Path, out: Path) -> None:
    """Write a model folder.

    Args:
        checkpoint: gives the trained weights, or their average where there is one.
        model: folder or hub id of the model that the training began with: gives all else.
        dataset: gives the codec and the special concepts.
        out: the folder; one that is there is replaced.
    """
    begun = load_model(model)  # its tensors are pages of a file, read when they are asked for
    state = begun.state_dict()
    layout = {name: TensorSpec(tensor.shape, tensor.dtype) for name, tensor in state.items()}
    trained = final_weights(checkpoint)
    with atomic_folder(out, overwrite=True) as folder:
        tensors = (trained.get(name, tensor) for name, tensor in state.items())
        write_model(folder, begun.config, lambda file: write_tensors(file, layout, tensors), begun.generation_config)
        copy_sidecar_files(dataset, folder)
