"""The codec over Meta's pipelines: its own logic against stand-ins with their signatures, and the real ones where
sonar-space is installed.
"""

import logging
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from sonar_reference import EXPECTED, LANGUAGES, REFERENCE, TENSORS, hf_codec, state_of

from lexalcm.codec.options import CodecOptions, DecodingOptions
from lexalcm.codec.registry import load_codec
from lexalcm.codec.sonar import codec as sonar
from lexalcm.codec.sonar import space as sonar_space
from lexalcm.codec.sonar.space import SonarSpaceCodec, explain
from lexalcm.errors import CodecError, MissingExtraError
from lexalcm.io.progress import ReportProgress
from lexalcm.registries import CODECS

SENTENCES = EXPECTED["sentences"]
CPU = torch.device("cpu")


class Model(torch.nn.Module):
    """Holds an encoder's weights; embeds the number of letters."""

    def __init__(self) -> None:
        super().__init__()
        self.state = state_of("encoder")
        attention = types.SimpleNamespace(num_heads=EXPECTED["config"]["heads"])
        self.encoder = types.SimpleNamespace(layers=[types.SimpleNamespace(self_attn=attention)])
        self.dtypes: list[torch.dtype] = []

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.state

    def to(self, dtype: torch.dtype) -> "Model":
        self.dtypes.append(dtype)
        self.state = {name: tensor.to(dtype) for name, tensor in self.state.items()}
        return self


class Tokenizer:
    def create_encoder(
        self,
        *,
        task: str | None = None,
        lang: str | None = None,
        mode: str | None = None,
        device: torch.device | None = None,
        pin_memory: bool = False,
    ) -> Callable[[str], torch.Tensor]:
        tokenizer = hf_codec().tokenizer
        return lambda text: torch.from_numpy(tokenizer.encode([text], lang)[0])


class TextToEmbeddingModelPipeline(torch.nn.Module):
    """The signatures of sonar-space 0.5.0."""

    made: ClassVar[list[dict[str, Any]]] = []
    calls: ClassVar[list[dict[str, Any]]] = []

    def __init__(
        self, encoder: str, tokenizer: str, device: torch.device = CPU, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.model, self.tokenizer = Model(), Tokenizer()
        self.made.append({"encoder": encoder, "tokenizer": tokenizer, "device": device, "dtype": dtype})

    def predict(
        self,
        input: Path | Sequence[str],
        source_lang: str | None = None,
        batch_size: int | None = 5,
        batch_max_tokens: int | None = None,
        max_seq_len: int | None = None,
        progress_bar: bool = False,
        target_device: torch.device | None = None,
    ) -> torch.Tensor:
        self.calls.append({"lang": source_lang, "batch_size": batch_size, "progress_bar": progress_bar})
        too_long = sum(len(sentence) > 100 for sentence in input)
        if too_long:
            warnings.warn(
                f"For {too_long} input tensors for SONAR text encoder, the length was truncated to 514 elements.",
                stacklevel=1,
            )
        return torch.tensor([[float(len(sentence))] * 64 for sentence in input], dtype=torch.float16)


class EmbeddingToTextModelPipeline(torch.nn.Module):
    made: ClassVar[list[dict[str, Any]]] = []
    calls: ClassVar[list[dict[str, Any]]] = []

    def __init__(
        self, decoder: str, tokenizer: str, device: torch.device = CPU, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.made.append({"decoder": decoder, "tokenizer": tokenizer, "device": device, "dtype": dtype})

    def predict(
        self,
        inputs: torch.Tensor,
        target_lang: str,
        target_mode: str = "target",
        batch_size: int = 5,
        progress_bar: bool = False,
        sampler: Any = None,
        **generator_kwargs: Any,
    ) -> list[str]:
        self.calls.append(
            {"lang": target_lang, "progress_bar": progress_bar, "dtype": inputs.dtype, **generator_kwargs}
        )
        return [f"{target_lang} {vector[0]:.0f}" for vector in inputs]


@pytest.fixture
def pipelines(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Installs the stand-ins as `sonar.inference_pipelines.text`."""
    text = types.ModuleType("sonar.inference_pipelines.text")
    for pipeline in (TextToEmbeddingModelPipeline, EmbeddingToTextModelPipeline):
        setattr(text, pipeline.__name__, pipeline)
        monkeypatch.setattr(pipeline, "made", [])
        monkeypatch.setattr(pipeline, "calls", [])
    for name in ("sonar", "sonar.inference_pipelines"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, text.__name__, text)
    return text


@pytest.fixture
def codec(pipelines: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> SonarSpaceCodec:
    codec = SonarSpaceCodec.create(())
    monkeypatch.setattr(codec, "_languages", tuple(LANGUAGES))
    codec.configure(CodecOptions(device="cpu"))
    return codec


def test_it_encodes_and_decodes_through_the_published_cards(codec: SonarSpaceCodec) -> None:
    embeddings = codec.encode(["abc", "a"], "fra_Latn")
    assert embeddings.dtype == np.float32
    assert embeddings[:, 0].tolist() == [3, 1]
    assert codec.decode(embeddings, "jpn_Jpan") == ["jpn_Jpan 3", "jpn_Jpan 1"]
    (encoder,), (decoder,) = TextToEmbeddingModelPipeline.made, EmbeddingToTextModelPipeline.made
    assert (encoder["encoder"], encoder["tokenizer"]) == ("text_sonar_basic_encoder", "text_sonar_basic_encoder")
    assert (decoder["decoder"], decoder["tokenizer"]) == ("text_sonar_basic_decoder", "text_sonar_basic_encoder")


def test_their_progress_bar_is_off(codec: SonarSpaceCodec) -> None:
    codec.decode(codec.encode(["abc"], "fra_Latn"), "fra_Latn")
    assert not any(call["progress_bar"] for call in TextToEmbeddingModelPipeline.calls)
    assert not any(call["progress_bar"] for call in EmbeddingToTextModelPipeline.calls)


def test_ours_shows_that_a_model_is_loaded(codec: SonarSpaceCodec) -> None:
    shown: list[tuple[str, list[tuple[int, int | None]]]] = []

    @contextmanager
    def progress(what: str, _unit: str) -> Iterator[ReportProgress]:
        shown.append((what, []))
        yield lambda done, total: shown[-1][1].append((done, total))

    codec.configure(CodecOptions(device="cpu"), progress)
    codec.decode(codec.encode(["abc"], "fra_Latn"), "fra_Latn")
    codec.decode(codec.encode(["abc"], "fra_Latn"), "fra_Latn")
    assert shown == [
        ("loading text_sonar_basic_encoder", [(1, 1)]),
        ("loading text_sonar_basic_decoder", [(1, 1)]),
    ]


def test_options_reach_the_pipelines(codec: SonarSpaceCodec) -> None:
    decoding = DecodingOptions(beam=3, max_tokens=40)
    codec.configure(CodecOptions(device="cpu", dtype="bf16", batch=640, decoding=decoding))
    codec.decode(codec.encode(["abc"], "fra_Latn"), "fra_Latn")
    assert TextToEmbeddingModelPipeline.calls[-1]["batch_size"] == 10
    assert codec._to_embeddings.model.dtypes[-1] == torch.bfloat16
    call = EmbeddingToTextModelPipeline.calls[-1]
    assert (call["beam_size"], call["max_seq_len"], call["dtype"]) == (3, 40, torch.bfloat16)
    assert codec.description() == "sonar-space on cpu in bf16, fairseq2"


def test_what_it_cannot_do_is_said(codec: SonarSpaceCodec) -> None:
    codec.configure(CodecOptions(device="cpu", decoding=DecodingOptions(repetition_penalty=1.2)))
    with pytest.raises(CodecError, match="no repetition penalty"):
        codec.decode(np.zeros((1, 64)), "fra_Latn")
    with pytest.raises(CodecError, match="sonar-space has no option weights: use --codec sonar-hf"):
        SonarSpaceCodec.create((), weights="somewhere")


def test_cut_sentences_are_counted_and_mentioned_once(codec: SonarSpaceCodec, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), warnings.catch_warnings():
        warnings.simplefilter("error")
        codec.encode(["a" * 200, "b", "c" * 200], "fra_Latn")
        codec.encode(["a" * 200], "fra_Latn")
    assert codec.cut == 3
    assert [record.message.startswith("a sentence has more than the 514 tokens") for record in caplog.records] == [True]


def test_bad_input_is_met_as_in_the_other_implementation(codec: SonarSpaceCodec) -> None:
    with pytest.raises(CodecError, match="does not know the language 'deu_Latn'"):
        codec.encode(["a"], "deu_Latn")
    with pytest.raises(CodecError, match="decodes 64 dimensions, not 3"):
        codec.decode(np.zeros((1, 3)), "fra_Latn")
    with pytest.raises(CodecError, match="embedding 0 of 1 is not finite"):
        codec.decode(np.full((1, 64), np.inf), "fra_Latn")
    assert codec.encode([], "fra_Latn").shape == (0, 64)


def test_both_implementations_of_the_same_weights_are_the_same_codec(
    codec: SonarSpaceCodec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sentencepiece", reason="the extra hf is not installed")
    monkeypatch.setenv("LEXALCM_CACHE", str(tmp_path))
    other = hf_codec()
    assert codec.record().name == other.record().name == "sonar"
    assert codec.fingerprint == other.fingerprint
    assert codec.dim == other.dim
    assert load_codec(codec.record(), tmp_path, name="sonar-hf").fingerprint == other.fingerprint


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_what_is_measured_does_not_depend_on_what_was_embedded_before(codec: SonarSpaceCodec, dtype: str) -> None:
    codec.configure(CodecOptions(device="cpu", dtype=dtype))
    codec.encode(["abc"], "fra_Latn")
    assert codec._to_embeddings.model.state["layer_norm.weight"].dtype != torch.float32  # the stand-in is rounded
    assert codec.fingerprint == hf_codec().fingerprint


def test_data_of_other_places_is_read_if_the_weights_are_the_same(
    pipelines: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sentencepiece", reason="the extra hf is not installed")
    monkeypatch.setenv("LEXALCM_CACHE", str(tmp_path))
    options = {"weights": "/then/encoder.pt", "decoder": "/then", "tokenizer": "/then/x.model", "heads": 4}
    monkeypatch.setattr("lexalcm.codec.sonar.sonar_base.SONAR_LANGUAGES", tuple(LANGUAGES))
    record = hf_codec().record().model_copy(update={"options": options})
    installed(monkeypatch, "sonar")
    for name in ("sonar-space", "sonar"):
        codec = load_codec(record, tmp_path, name=name, options=CodecOptions(device="cpu"))
        assert codec.encode(["abc"], "fra_Latn")[0, 0] == 3
        other = load_codec(record.model_copy(update={"fingerprint": "f" * 64}), tmp_path, name=name)
        with pytest.raises(CodecError, match=r"fingerprint .* expected ffffffffffff"):
            other.encode(["abc"], "fra_Latn")
    longer = record.model_copy(update={"options": {"max_seq_len": 64}})
    with pytest.raises(CodecError, match="sonar-space has no option max_seq_len"):
        load_codec(longer, tmp_path, name="sonar-space")


def test_a_model_that_cannot_be_fetched(codec: SonarSpaceCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("asset download failed") from OSError("Name or service not known")

    monkeypatch.setattr(TextToEmbeddingModelPipeline, "__init__", fail)
    with pytest.raises(CodecError, match=r"cannot load text_sonar_basic_encoder .*Name or service not known.*sonar-hf"):
        codec.encode(["a"], "fra_Latn")


TORCH = (
    "fairseq2 requires a CUDA 12.8 build of PyTorch 2.8.0, but the installed version is a CPU-only build of PyTorch "
    "2.13.0. Either follow the instructions at https://pytorch.org/get-started/locally to update PyTorch, or ..."
)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (OSError("fairseq2 requires libsndfile. Use your system package manager"), "apt-get install libsndfile1"),
        (OSError("libsndfile.so.1: cannot open shared object file"), "apt-get install libsndfile1"),
        (OSError("fairseq2 requires Intel oneTBB which is"), "pip install tbb"),
        (RuntimeError(TORCH), r"fairseq2 needs torch 2\.8\.0 \(CUDA 12\.8\).* pip install torch==2\.8\.0"),
        (ImportError("bindings.so: undefined symbol: _ZN5torch"), "built for another torch"),
        (ModuleNotFoundError("No module named 'fairseq2n'", name="fairseq2n"), "pip install fairseq2"),
        (ValueError("something\nelse"), r"cannot be loaded \(ValueError: something else\)"),
    ],
)
def test_a_package_that_does_not_load_is_explained(
    error: Exception, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import re

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(sonar_space, "import_extra", fail)
    with pytest.raises(CodecError) as caught:
        SonarSpaceCodec.create(())
    assert re.search(advice, str(caught.value))
    assert "\n" not in str(caught.value)
    assert str(caught.value) == explain(error)


def test_it_is_named_if_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sonar", None)
    monkeypatch.delitem(sys.modules, "sonar.inference_pipelines.text", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'lexalcm\[sonar\]'"):
        SonarSpaceCodec.create(())


# choosing


def installed(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    monkeypatch.setattr(sonar, "_installed", lambda module: module in modules)


def test_sonar_takes_metas_package_first(pipelines: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "sonar", "transformers", "sentencepiece")
    assert CODECS.load("sonar").create(()).backend == "sonar-space"
    assert CODECS.load("sonar").create((), seed=3).backend == "sonar-space"
    assert CODECS.load("sonar").create((), weights=str(REFERENCE)).backend == "sonar-hf"
    installed(monkeypatch, "transformers", "sentencepiece")
    assert CODECS.load("sonar").create(()).backend == "sonar-hf"


def test_sonar_goes_round_a_package_that_does_not_load(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError("fairseq2 requires libsndfile.")

    monkeypatch.setattr(sonar_space, "import_extra", fail)
    installed(monkeypatch, "sonar", "transformers", "sentencepiece")
    assert CODECS.load("sonar").create(()).backend == "sonar-hf"
    assert "libsndfile1" in caplog.text
    installed(monkeypatch, "sonar")
    with pytest.raises(CodecError, match="libsndfile1"):
        CODECS.load("sonar").create(())
    installed(monkeypatch)
    with pytest.raises(MissingExtraError, match=r"pip install 'lexalcm\[hf\]'"):
        CODECS.load("sonar").create(())


# the real thing


def real_pipelines() -> types.SimpleNamespace:
    """Meta's own pipelines, which make their models of the reference folder instead of the published files."""
    from fairseq2.data.tokenizers import VocabularyInfo
    from fairseq2.data.tokenizers.sentencepiece import SentencePieceModel
    from fairseq2.models.nllb.tokenizer import NllbTokenizer
    from sonar.inference_pipelines import text
    from sonar.models.sonar_text.config import SonarTextDecoderConfig, SonarTextEncoderConfig
    from sonar.models.sonar_text.factory import SonarTextDecoderFactory, SonarTextEncoderFactory

    config = EXPECTED["config"]
    symbols = [*(f"__{lang}__" for lang in LANGUAGES), "<MINED_DATA>", "<MMT_BT_DATA>", "<SMT_BT_DATA>", "<pad>@0"]
    pieces = SentencePieceModel(REFERENCE / "sentencepiece.model", symbols)
    tokenizer = NllbTokenizer(pieces, set(LANGUAGES), LANGUAGES[0])
    sizes = {
        "model_dim": config["model_dim"],
        "vocab_info": VocabularyInfo(size=config["vocab_size"], unk_idx=1, bos_idx=2, eos_idx=3, pad_idx=1),
        "learned_pos": False,
        "no_scale_embedding": False,
        "emb_dropout_p": 0.1,
        "attention_dropout_p": 0.1,
        "activation_dropout_p": 0.1,
        "max_seq_len": config["max_seq_len"],
        "no_token_positional_embeddings": False,
        "activation_fn": "ReLU",
        "num_encoder_layers": config["layers"],
        "num_decoder_layers": config["layers"],
        "num_encoder_attn_heads": config["heads"],
        "num_decoder_attn_heads": config["heads"],
        "ffn_inner_dim": config["ffn_inner_dim"],
    }

    def encode(encoder: str, tokenizer: str, device: torch.device, dtype: torch.dtype) -> Any:
        settings = SonarTextEncoderConfig(pooling="mean", normalize_before=False, _from_fairseq=True, **sizes)
        model = SonarTextEncoderFactory(settings).create_model().eval()
        model.load_state_dict(state_of("encoder"))
        return text.TextToEmbeddingModelPipeline(model, opened, device=device, dtype=dtype)

    def decode(decoder: str, tokenizer: str, device: torch.device, dtype: torch.dtype) -> Any:
        model = SonarTextDecoderFactory(SonarTextDecoderConfig(normalize_before=True, **sizes)).create_model().eval()
        model.load_state_dict(state_of("decoder"))
        return text.EmbeddingToTextModelPipeline(model, opened, device=device, dtype=dtype)

    opened = tokenizer
    return types.SimpleNamespace(TextToEmbeddingModelPipeline=encode, EmbeddingToTextModelPipeline=decode)


def test_metas_own_pipelines(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sonar.inference_pipelines.text", reason="the extra sonar is not installed", exc_type=Exception)
    codec = SonarSpaceCodec.create(())
    monkeypatch.setattr(codec, "_pipelines", real_pipelines())
    monkeypatch.setattr(codec, "_languages", tuple(LANGUAGES))
    for lang in LANGUAGES[:2]:
        expected = TENSORS[f"embeddings_{lang}"]
        np.testing.assert_allclose(codec.encode(SENTENCES, lang), expected, atol=1e-5)
    for beam in (1, 5):
        codec.configure(CodecOptions(device="cpu", decoding=DecodingOptions(beam=beam, max_tokens=24)))
        found = codec.decode(TENSORS["embeddings_eng_Latn"], "fra_Latn")
        assert found == EXPECTED["decoded"][f"fra_Latn_beam{beam}"]
    pytest.importorskip("sentencepiece", reason="the extra hf is not installed")
    assert codec.fingerprint == hf_codec().fingerprint
