"""The log probability of a sentence with and without its context, by a causal language model.

LCM paper (arXiv 2412.08821), section 2.4.1: (log p(s | text before) - log p(s)) / |s|, with a newline put before s so
that its first token has a probability too, and at most ten sentences before it. Averages weigh sentences by |s|, their
tokens. Any model of Transformers' `AutoModelForCausalLM` will do; the paper takes GPT-2.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from typing_extensions import Self

from lexalcm.errors import UserError, import_extra
from lexalcm.text.running_text import join_sentences

CONFIG_FILE = "config.json"

LOGITS = 2**27
"""Numbers (vocabulary x tokens) that one forward pass may give at most, 512 MB of them, but one text always."""


class LanguageModel:
    """A causal language model with its tokenizer."""

    def __init__(self, name: str, model: Any, tokenizer: Any) -> None:
        self.name = name
        self._model = model
        self._tokenizer = tokenizer
        limits = [getattr(model.config, key, None) for key in ("max_position_embeddings", "n_positions")]
        self._longest = min([limit for limit in limits if isinstance(limit, int) and limit > 0], default=1024)
        self._newline = self._tokens("\n") or self._beginning()

    @classmethod
    def open(cls, name: str, device: torch.device | str = "cpu") -> Self:
        """Open a Transformers id or folder.

        Raises:
            MissingExtraError: Transformers is not installed.
            UserError: there is no such model, or it is not a causal language model.
        """
        transformers = import_extra("transformers", "hf", "--lm")
        transformers.utils.logging.disable_progress_bar()
        _check_there(name)
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(name)
            model = transformers.AutoModelForCausalLM.from_pretrained(name)
        except (OSError, ValueError, KeyError, ImportError) as error:  # the last: its tokenizer needs another package
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise UserError(f"--lm {name}: Transformers cannot open it as a causal language model: {reason}") from error
        return cls(name, model.to(device).eval(), tokenizer)

    def gain(self, texts: Sequence[tuple[Sequence[str], str]]) -> tuple[np.ndarray, np.ndarray]:
        """What the text before adds to the log probability of each sentence.

        Args:
            texts: (sentences before, sentence). Where both do not fit into the model's positions, the text before is
                cut at its beginning, and a sentence that is longer alone at its end.

        Returns:
            log p(sentence | text before) - log p(sentence), in nats, and the sentence's tokens: float64 [texts] each.
        """
        sentences = [self._tokens(sentence)[: self._longest - len(self._newline)] for _, sentence in texts]
        alone = [(self._newline, sentence) for sentence in sentences]
        within = []
        for (before, _), sentence in zip(texts, sentences, strict=True):
            room = self._longest - len(self._newline) - len(sentence)
            context = self._tokens(join_sentences(before))
            within.append(([*context[max(0, len(context) - room) :], *self._newline], sentence))
        scores = self._log_probabilities([*within, *alone])
        tokens = np.array([len(sentence) for sentence in sentences], dtype=np.float64)
        return scores[: len(texts)] - scores[len(texts) :], tokens

    @torch.inference_mode()
    def _log_probabilities(self, pairs: Sequence[tuple[list[int], list[int]]]) -> np.ndarray:
        """log p(tokens | tokens before) of each (before, tokens): float64 [pairs]."""
        result = np.zeros(len(pairs))
        order = sorted(range(len(pairs)), key=lambda place: -sum(map(len, pairs[place])))
        order = [place for place in order if pairs[place][1]]
        vocabulary = int(self._model.config.vocab_size)
        start = 0
        while start < len(order):
            longest = sum(map(len, pairs[order[start]]))
            chosen = order[start : start + max(1, LOGITS // (vocabulary * longest))]
            start += len(chosen)
            # Rows are padded at their end, which a causal model does not attend to.
            rows = torch.zeros(len(chosen), longest, dtype=torch.int64)
            for row, place in enumerate(chosen):
                tokens = [*pairs[place][0], *pairs[place][1]]
                rows[row, : len(tokens)] = torch.tensor(tokens)
            logits_BLV = self._model(input_ids=rows.to(self._model.device)).logits
            for row, place in enumerate(chosen):
                before, tokens = pairs[place]
                log_probs = (
                    logits_BLV[row, len(before) - 1 : len(before) + len(tokens) - 1].float().log_softmax(-1).cpu()
                )
                result[place] = log_probs.gather(1, torch.tensor(tokens)[:, None]).double().sum().item()
        return result

    def _tokens(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def _beginning(self) -> list[int]:
        """For a tokenizer that knows no newline: the token that texts begin with, or else end with."""
        for token in (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id):
            if token is not None:
                return [token]
        raise UserError(f"--lm {self.name}: its tokenizer has neither a newline nor a beginning-of-text token")


def _check_there(name: str) -> None:
    """Make sure that there is a model: Transformers asks a hub that does not answer again and again, for minutes.

    Raises:
        UserError: neither a folder with a config, nor on the hub or in its cache.
    """
    folder = Path(name)
    if folder.is_dir():
        if not (folder / CONFIG_FILE).is_file():
            raise UserError(f"--lm {name}: that folder is not a language model: it has no {CONFIG_FILE}")
        return
    try:
        snapshot_download(name, allow_patterns=[CONFIG_FILE])
    except LocalEntryNotFoundError as error:
        raise UserError(f"--lm {name}: no such folder, and the hub cannot be reached: check the network") from error
    except (HfHubHTTPError, HFValidationError) as error:
        raise UserError(f"--lm {name}: no such folder, and the hub replies: {str(error).splitlines()[0]}") from error
