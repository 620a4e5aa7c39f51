import torch
from torch import nn

from lexalcm.train.optimizer import make_adamw, parameter_groups, set_learning_rate
from lexalcm.train.settings import TrainSettings


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.norm = nn.RMSNorm(4)
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)


def test_matrices_decay_and_norms_and_biases_do_not() -> None:
    model = Small()
    decay, keep = parameter_groups(model.parameters(), 0.1)
    assert (decay["weight_decay"], keep["weight_decay"]) == (0.1, 0.0)
    assert {id(parameter) for parameter in decay["params"]} == {id(model.linear.weight)}
    assert {id(parameter) for parameter in keep["params"]} == {id(model.linear.bias), id(model.norm.weight)}


def test_an_update_is_adamw_as_published() -> None:
    """Algorithm 2 of arXiv 1711.05101, written out for one parameter and two steps."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2, bias=False).double()
    settings = TrainSettings(betas=(0.8, 0.9), eps=1e-3, weight_decay=0.5)
    optimizer = make_adamw(model.parameters(), settings)
    weight = model.weight.detach().clone()
    mean, square = torch.zeros_like(weight), torch.zeros_like(weight)
    for step, lr in enumerate((0.1, 0.05), start=1):
        gradient = torch.randn_like(weight)
        mean = 0.8 * mean + 0.2 * gradient
        square = 0.9 * square + 0.1 * gradient**2
        weight = weight - lr * (mean / (1 - 0.8**step) / ((square / (1 - 0.9**step)).sqrt() + 1e-3) + 0.5 * weight)
        model.weight.grad = gradient
        set_learning_rate(optimizer, lr)
        optimizer.step()
        torch.testing.assert_close(model.weight.detach(), weight)
