"""When a text ends, and what becomes the context of what follows."""

import torch
from tiny_models import CONFIGS, DIM, lively_model

from lexalcm.generate.autoregressive import generate
from lexalcm.generate.options import GenerationOptions
from lexalcm.generate.predictor import prepare
from lexalcm.generate.stopping import StoppingRules

END, OTHER, THIRD = torch.eye(DIM)[:3]
NEAR_END = END + 0.1 * OTHER  # cosine 0.995


def rules(**options: object) -> StoppingRules:
    return StoppingRules(GenerationOptions(**options), END, [THIRD])


def test_a_text_ends_at_end_of_text() -> None:
    assert rules().before(NEAR_END) == "end of text"
    assert rules(stop_similarity=0.999).before(NEAR_END) is None
    assert rules(stop_similarity=None).before(END) is None
    assert StoppingRules(GenerationOptions(), None, [THIRD]).before(END) is None


def test_a_text_ends_where_it_repeats_the_prompt_or_itself() -> None:
    text = rules()
    assert text.before(2 * THIRD) == "repetition"
    assert text.before(OTHER) is None
    text.after(OTHER)
    assert text.before(OTHER) == "repetition"
    assert rules(repetition=None).before(THIRD) is None


def test_a_text_ends_at_its_length() -> None:
    text = rules(max_sentences=2)
    assert text.after(OTHER) is None
    assert text.after(END) == "length"


def test_a_concept_sent_back_is_the_context_of_the_next() -> None:
    """Sending back another concept gives what a prompt that ends with it gives."""
    options = GenerationOptions(steps=5)
    prompt, said = torch.randn(2, DIM, generator=torch.Generator().manual_seed(0)), torch.linspace(-1, 1, DIM)
    for architecture in CONFIGS:
        predictor = prepare(lively_model(architecture), options)
        sending = generate(predictor, [prompt], [1], 2)
        first = next(sending)
        replaced = sending.send(said[None])
        kept = list(generate(predictor, [prompt], [1], 2))
        torch.testing.assert_close(first, kept[0])
        assert not torch.allclose(replaced, kept[1])
        if architecture == "base":  # has no noise, so that the longer prompt's first concept can be compared
            (longer,) = generate(predictor, [torch.cat([prompt, said[None]])], [1], 1)
            torch.testing.assert_close(replaced, longer)
