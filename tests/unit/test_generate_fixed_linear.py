"""However many positions there are, a fixed linear layer is that linear map."""

import pytest
import torch
from torch import nn

from lexalcm.model.two_tower.fixed_linear import FixedLinear


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_number_of_positions_gives_the_linear_map(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(48, 80, dtype=dtype)
    fixed = FixedLinear.of(linear)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.02}
    with torch.inference_mode():
        for positions in (1, 2, 3, 5, 16, 200, 3, 1):  # back to few: what is packed serves any number
            x = torch.randn(positions, 48, dtype=dtype)
            expected = x.double() @ linear.weight.double().t() + linear.bias.double()
            found = fixed(x)
            assert found.is_contiguous()
            torch.testing.assert_close(found, expected.to(dtype), **tolerance)


def test_without_onednn_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    linear = nn.Linear(8, 6)
    x = torch.randn(5, 8)
    torch.testing.assert_close(FixedLinear.of(linear)(x), linear(x))
