"""An architecture of another package: a neural n-gram model (Bengio 2003), each concept from the last four."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lexalcm.model import LCM, ModelConfig, Preset

ORDER = 4


class NgramLCM(LCM):
    """Shapes: B rows, L positions, N concepts, O = 4, D embedding dimension."""

    flow = "The last four concepts, side by side, go through feed-forward layers."
    presets: ClassVar = {"tiny": Preset({"num_layers": 2, "width": 256, "num_heads": 1, "ffn_dim": 512}, reencode=True)}

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.input_proj = nn.Linear(ORDER * config.dim, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.output_proj = nn.Linear(config.width, config.dim)

    def blocks(self) -> list[nn.Module]:
        return list(self.layers)

    def forward(self, concepts_BLD: Tensor, documents_BL: Tensor, positions_BL: Tensor) -> Tensor:
        """The concept after each position, normalized [B, L, D], from normalized ones in packed rows."""
        back = [concepts_BLD.roll(n, 1).masked_fill((positions_BL < n)[..., None], 0) for n in range(ORDER)]
        return self.guess(torch.stack(back, dim=2).flatten(0, 1)).view_as(concepts_BLD)

    def guess(self, last_NOD: Tensor) -> Tensor:
        """The concept after each of N times the last four, newest first and zero where there is none, [N, D]."""
        x_NW = self.input_proj(last_NOD.flatten(1).to(self.input_proj.weight.dtype))
        for layer in self.layers:
            x_NW = layer(x_NW)
        return self.output_proj(x_NW).float()

    def predictor(self, denoising: Any, observe: Any) -> "NgramPredictor":
        return NgramPredictor(self)

    @classmethod
    def cached_numbers(cls, config: ModelConfig) -> int:
        return config.dim


class Layer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(config.width)
        self.ffn = nn.Sequential(
            nn.Linear(config.width, config.ffn_dim), nn.SiLU(), nn.Linear(config.ffn_dim, config.width)
        )

    def forward(self, x_NW: Tensor) -> Tensor:
        return x_NW + self.ffn(self.norm(x_NW))


class NgramPredictor:
    """See `lexalcm.model.predictor.ArchitecturePredictor`."""

    def __init__(self, model: NgramLCM) -> None:
        self.model = model

    def new_reader(self, rows: int, slots: int, draw_noise: Any) -> "Reader":
        return Reader(self.model, rows, slots)

    def predict_rows(self, concepts_BLD: Tensor, documents_BL: Tensor, positions_BL: Tensor, draw_noise: Any) -> Tensor:
        return self.model(concepts_BLD, documents_BL, positions_BL).roll(1, dims=1)

    def next_concept(self) -> None:
        """No CUDA graphs: readers serve on a GPU too."""


class Reader:
    """See `lexalcm.model.predictor.Reader`; keeps concepts by their positions, [B, slots, D]."""

    def __init__(self, model: NgramLCM, rows: int, slots: int) -> None:
        self.model = model
        self.kept = torch.zeros(rows, slots, model.config.dim, device=model.device)

    def read(self, concepts_BLD: Tensor, positions_BL: Tensor, used: int) -> None:
        self.kept = nn.functional.pad(self.kept, (0, 0, 0, max(0, used - self.kept.shape[1])))
        self.kept.scatter_(1, positions_BL[..., None].expand_as(concepts_BLD), concepts_BLD)

    def next(self, concept_BD: Tensor, positions_B: Tensor, used: int) -> Tensor:
        self.read(concept_BD[:, None], positions_B[:, None], used)
        back_BO = positions_B[:, None] - torch.arange(ORDER, device=positions_B.device)
        index_BOD = back_BO.clamp_min(0)[..., None].expand(-1, -1, self.model.config.dim)
        return self.model.guess(self.kept.gather(1, index_BOD).masked_fill((back_BO < 0)[..., None], 0))

    def keep(self, rows_K: Tensor) -> None:
        self.kept = self.kept[rows_K]
