"""Texts that are continued together: those that end leave, long ones find room, and the others notice nothing."""

import pytest
import torch
from tiny_models import CONFIGS, DIM, lively_model
from torch import Tensor

from lexalcm.generate import autoregressive
from lexalcm.generate.autoregressive import KeepRows, generate
from lexalcm.generate.options import GenerationOptions
from lexalcm.generate.predictor import prepare
from lexalcm.model.layers.cache import LayerCache

OPTIONS = GenerationOptions(sampler="ddim", steps=4, guidance_scale=2.0, eta=0.3)


def prompts_of(lengths: list[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(length, DIM, generator=generator) for length in lengths]


@pytest.mark.parametrize("architecture", CONFIGS)
def test_texts_that_leave_change_nothing_for_the_others(architecture: str) -> None:
    """The longest prompt leaves first, then one of the two left; fresh noise at each step is each prompt's own."""
    predictor = prepare(lively_model(architecture), OPTIONS)
    prompts, seeds = prompts_of([2, 6, 1, 3]), [4, 5, 6, 7]
    alone = [list(generate(predictor, [prompt], [seed], 4)) for prompt, seed in zip(prompts, seeds, strict=True)]
    stream = generate(predictor, prompts, seeds, 4)
    made = next(stream)
    going = [0, 1, 2, 3]
    for number, leaving in enumerate([1, None, 0]):
        for row, prompt in zip(made, going, strict=True):
            torch.testing.assert_close(row, alone[prompt][number][0], rtol=1e-4, atol=1e-4)
        if leaving is None:
            made = stream.send(made)
            continue
        places = [place for place, prompt in enumerate(going) if prompt != leaving]
        going = [going[place] for place in places]
        made = stream.send(KeepRows(torch.tensor(places), made[places]))
    assert len(made) == len(going) == 2
    for row, prompt in zip(made, going, strict=True):
        torch.testing.assert_close(row, alone[prompt][3][0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_room_for_more_concepts_changes_nothing(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = prepare(lively_model(architecture), OPTIONS)
    prompts, seeds = prompts_of([2, 5]), [1, 2]
    at_once = list(generate(predictor, prompts, seeds, 9))
    monkeypatch.setattr(autoregressive, "EXPECTED", 1)
    growing = list(generate(predictor, prompts, seeds, 9))
    torch.testing.assert_close(torch.stack(growing), torch.stack(at_once), rtol=1e-5, atol=1e-5)


def test_a_cache_that_grows_keeps_what_it_holds() -> None:
    keys, values = torch.randn(2, 1, 3, 4), torch.randn(2, 1, 3, 4)
    cache = LayerCache(keys, values)
    cache.reserve(3)
    assert cache.keys is keys
    cache.reserve(4)
    assert cache.keys.shape[2] == 6
    assert torch.equal(cache.first(3)[0], keys)
    assert torch.equal(cache.first(3)[1], values)
