"""Keys and values of the concepts so far, kept in generation so that a new concept costs one position.

Shapes: B rows, L new positions, S slots, H heads, E size of a head.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from typing_extensions import Self

from lexalcm.model.layers.attention import Attention

KeysValues = tuple[Tensor, Tensor]
"""Keys and values, [B, H, S, E] each."""


@dataclass
class LayerCache:
    """Keys and values of one layer, [B, H, S, E] each; a slot is a position of the document."""

    keys: Tensor
    values: Tensor

    @classmethod
    def empty(cls, rows: int, slots: int, attention: Attention) -> Self:
        """Zeros, of the attention's device and type."""
        weight = attention.k_proj.weight
        shape = (rows, attention.num_heads, slots, weight.shape[0] // attention.num_heads)
        return cls(weight.new_zeros(shape), weight.new_zeros(shape))

    def first(self, slots: int) -> KeysValues:
        """Keys and values of the first slots."""
        return self.keys[:, :, :slots], self.values[:, :, :slots]

    def reserve(self, slots: int) -> None:
        """Make room for that many slots; what is there stays. It at least doubles, so that copying costs little."""
        more = max(slots, 2 * self.keys.shape[2]) - self.keys.shape[2]
        if slots > self.keys.shape[2]:
            self.keys, self.values = (nn.functional.pad(kept, (0, 0, 0, more)) for kept in (self.keys, self.values))

    def keep(self, rows_K: Tensor) -> None:
        """Forget all rows but these, int64 [K]."""
        self.keys, self.values = self.keys[rows_K], self.values[rows_K]

    def rows(self, count: int) -> Self:
        """The first rows, in place."""
        return type(self)(self.keys[:count], self.values[:count])

    def clear(self) -> None:
        """Zeros again."""
        self.keys.zero_()
        self.values.zero_()

    def copy_from(self, other: Self, rows_K: Tensor) -> None:
        """Take over these rows of another cache or of this one, int64 [K], as the first ones.

        As many slots as both have; what else is here stays.
        """
        slots = min(self.keys.shape[2], other.keys.shape[2])
        self.keys[: len(rows_K), :, :slots] = other.keys[rows_K, :, :slots]
        self.values[: len(rows_K), :, :slots] = other.values[rows_K, :, :slots]

    def write(self, k_BHLE: Tensor, v_BHLE: Tensor, slots_BL: Tensor) -> None:
        """Store keys and values in each row's slots."""
        index_BHLE = slots_BL[:, None, :, None].expand_as(k_BHLE)
        self.keys.scatter_(2, index_BHLE, k_BHLE.to(self.keys.dtype))
        self.values.scatter_(2, index_BHLE, v_BHLE.to(self.values.dtype))
