"""Linear layers and norms of few positions on a CPU, where calling costs more than computing.

Shapes: N positions, W width, I inputs, O outputs.
"""

import torch
from torch import Tensor, nn

from lexalcm.model.norm import inverse_rms

FEW = 16
"""Up to so many positions, a CPU multiplies faster with the weight on the left: twice as fast for two positions."""


def linear(x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor) -> Tensor:
    """`nn.functional.linear`, [N, O], in the order that suits few positions on a CPU."""
    if 1 < len(x_NI) <= FEW and x_NI.device.type == "cpu":
        output_NO = x_NI.new_empty(len(x_NI), len(weight_OI))
        return torch.add(torch.mm(weight_OI, x_NI.t()).t(), bias_O, out=output_NO)
    return nn.functional.linear(x_NI, weight_OI, bias_O)


def modulate(x_NW: Tensor, gain_W: Tensor, shift_W: Tensor, eps: float) -> Tensor:
    """Root mean square normalization, gain and shift, [N, W]; the norm in float32."""
    x_float_NW = x_NW.float()
    if x_NW.device.type != "cpu":
        return nn.functional.rms_norm(x_float_NW, gain_W.shape, gain_W.float(), eps).type_as(x_NW) + shift_W
    return torch.addcmul(shift_W, (x_float_NW * inverse_rms(x_float_NW, eps)).type_as(x_NW), gain_W)
