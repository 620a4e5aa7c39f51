"""Cross-attention of a concept's denoising steps over contexts that stay the same from step to step.

A single position, a prompt alone being continued, has a cheaper way. Its scores q . k = (W_q x + b_q) . k are linear in
x, and so is the output in the attention weights: with W_q multiplied into the keys and W_o into the values once per
concept, a step reads 2 H K rows of W numbers in place of the two matrices' 2 W rows. With 33 contexts and 8 heads of a
512 wide model that is half.

Shapes: B rows, Q positions of each, N = B Q, K keys, W width, H heads, E size of a head.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lexalcm.model.layers.attention import mix_values
from lexalcm.model.layers.cache import KeysValues
from lexalcm.model.layers.masks import Mask
from lexalcm.model.two_tower.fixed_linear import FixedLinear, times_columns

CrossAttention = Callable[[Tensor], Tensor]
"""From normalized positions [N, W] to what they take from the contexts, [N, W]."""


def cross_attention(
    queries: FixedLinear, output: FixedLinear, keys_values: KeysValues, mask: Mask, positions: int
) -> CrossAttention:
    """Attend given keys and values, in the cheaper of the two ways.

    Args:
        queries: from positions to their queries.
        output: from the heads' mixtures of values to what they add.
        keys_values: of the contexts.
        mask: which of them each position sees.
        positions: Q of each row.
    """
    k_BHKE, v_BHKE = keys_values
    (rows, heads, keys, _), width = k_BHKE.shape, queries.weight.shape[1]
    if rows * positions == 1 and heads * keys < width and isinstance(mask, Tensor) and bool(mask.all()):
        return _over_folded_keys(queries, output, k_BHKE[0], v_BHKE[0])

    def attend(x_NW: Tensor) -> Tensor:
        queries_BHQE = queries(x_NW).view(rows, positions, heads, -1).transpose(1, 2)
        mixed_NW = mix_values(queries_BHQE, k_BHKE, v_BHKE, mask).transpose(1, 2).reshape(len(x_NW), -1)
        return output(mixed_NW)

    return attend


def _over_folded_keys(queries: FixedLinear, output: FixedLinear, k_HKE: Tensor, v_HKE: Tensor) -> CrossAttention:
    heads, keys, size = k_HKE.shape
    k_HKE = k_HKE * size**-0.5
    key_rows = torch.bmm(k_HKE, queries.weight.view(heads, size, -1)).flatten(0, 1)
    key_biases = torch.bmm(k_HKE, queries.bias.view(heads, size, 1)).flatten()
    output_HEW = output.weight.t().view(heads, size, -1)
    value_rows = torch.bmm(v_HKE, output_HEW).flatten(0, 1)

    def attend(x_1W: Tensor) -> Tensor:
        scores_HK = times_columns(x_1W, key_rows, key_biases).view(heads, keys)
        weights_1 = nn.functional.softmax(scores_HK, dim=-1).view(1, -1)
        return torch.addmm(output.bias, weights_1, value_rows)

    return attend
