import numpy as np
import pytest
import torch

from lexalcm.errors import UserError
from lexalcm.evaluate.metrics import language_model
from lexalcm.evaluate.metrics.language_model import LanguageModel

transformers = pytest.importorskip("transformers", reason="needs the extra hf")
POSITIONS = 48
WORDS = ["\n", "the", "cat", "sat", "on", "a", "mat", ".", "it", "rained", "and", "we", "went", "home"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A language model of random weights whose tokens are a few words, as a Transformers folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="the"))
    words.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    folder = tmp_path_factory.mktemp("lm")
    transformers.PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(WORDS), n_positions=POSITIONS, n_embd=16, n_layer=2, n_head=2, initializer_range=0.5
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def log_probability(folder, before, sentence):
    """log p(sentence | before), token by token, one forward pass each."""
    model = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    tokens = [WORDS.index(word) for word in before]
    total = 0.0
    for word in sentence:
        with torch.no_grad():
            chances = model(torch.tensor([tokens])).logits[0, -1].double().softmax(-1)
        total += float(chances[WORDS.index(word)].log())
        tokens.append(WORDS.index(word))
    return total


CASES = [
    (["the cat sat on a mat .", "it rained ."], "and we went home ."),
    (["it rained ."], "the cat"),
    ([], "we went home"),
    (["the mat ."], ""),
]


def test_gain_is_the_difference_of_log_probabilities_worked_out_word_by_word(folder):
    gain, tokens = LanguageModel.open(str(folder)).gain(CASES)
    assert tokens.tolist() == [5, 2, 3, 0]
    for (before, sentence), found in zip(CASES[:3], gain, strict=False):
        words = sentence.split()
        context = [*" ".join(before).split(), "\n"]
        expected = log_probability(folder, context, words) - log_probability(folder, ["\n"], words)
        assert found == pytest.approx(expected, abs=1e-4)
    assert gain[3] == 0
    assert abs(gain[0]) > 0.05  # the case says something
    assert gain[2] == pytest.approx(0, abs=1e-5)  # nothing before, nothing gained


def test_batches_do_not_change_the_numbers(folder, monkeypatch):
    model = LanguageModel.open(str(folder))
    together, _ = model.gain(CASES)
    monkeypatch.setattr(language_model, "LOGITS", 1)
    assert model.gain(CASES)[0] == pytest.approx(together, abs=1e-5)
    assert np.concatenate([model.gain([case])[0] for case in CASES]) == pytest.approx(together, abs=1e-5)


def test_what_is_too_long_for_the_model_is_cut_at_the_beginning_of_the_context(folder):
    model = LanguageModel.open(str(folder))
    sentence = "we went home ."
    long = ["the cat sat on a mat ."] * 9
    [gain], _ = model.gain([(long, sentence)])
    kept = " ".join(long).split()[-(POSITIONS - 1 - 4) :]
    words = sentence.split()
    expected = log_probability(folder, [*kept, "\n"], words) - log_probability(folder, ["\n"], words)
    assert gain == pytest.approx(expected, abs=1e-4)
    _, [tokens] = model.gain([(long, "the cat " * 40)])
    assert tokens == POSITIONS - 1


def test_what_is_no_language_model_is_the_users_mistake(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"that folder is not a language model: it has no config.json"):
        LanguageModel.open(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(UserError, match="cannot open it as a causal language model"):
        LanguageModel.open(str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="--lm nowhere-at-all: no such folder, and the hub cannot be reached"):
        LanguageModel.open("nowhere-at-all")


@pytest.mark.parametrize("error", [ImportError("\n requires the SentencePiece library.\nInstall it."), ValueError()])
def test_what_transformers_lacks_is_one_line(folder, monkeypatch, error):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", fails)
    with pytest.raises(UserError, match=r"causal language model: (requires the SentencePiece library\.|ValueError)$"):
        LanguageModel.open(str(folder))
