"""`sonar`: SONAR by whichever implementation there is, Meta's package first.

Data sets and models made with either note this name, so that they open wherever one of the two is installed.
"""

import importlib.util
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lexalcm.codec.base import CodecRecord
from lexalcm.codec.sonar.hf import SonarHfCodec
from lexalcm.codec.sonar.sonar_base import SonarBase
from lexalcm.codec.sonar.space import SonarSpaceCodec, import_pipelines
from lexalcm.errors import CodecError, MissingExtraError

logger = logging.getLogger(__name__)


class SonarCodec(SonarBase):
    """Makes a `SonarSpaceCodec` or a `SonarHfCodec`; there is no object of this class."""

    @classmethod
    def create(  # type: ignore[override]  # of another class: there is no object of this one
        cls, documents: Iterable[tuple[str, Sequence[str]]], **options: Any
    ) -> SonarBase:
        """Set up whichever implementation there is; see `SonarBase.create`."""
        return choose(options).create(documents, **options)

    @classmethod
    def load(cls, record: CodecRecord, folder: Path) -> SonarBase:  # type: ignore[override]
        """Set up whichever implementation there is as recorded; see `SonarBase.load`."""
        return choose(record.options, noted=True).load(record, folder)


def choose(options: Mapping[str, Any], *, noted: bool = False) -> type[SonarBase]:
    """The implementation to use.

    Args:
        options: of the codec; any one that is set asks for weights that only sonar-hf reads.
        noted: whether they are a data set's or a model's, which sonar-space reads too if its weights are the same.

    Raises:
        MissingExtraError: neither is installed.
        CodecError: only sonar-space is, and it cannot be loaded.
    """
    hf = _installed("transformers") and _installed("sentencepiece")
    others = any(value is not None for name, value in options.items() if name != "seed")
    if _installed("sonar") and (not others or (noted and not hf)):
        try:
            import_pipelines()
        except (CodecError, MissingExtraError) as error:
            if not hf:
                raise
            logger.warning("the codec is sonar-hf, because sonar-space cannot be loaded: %s", error)
        else:
            return SonarSpaceCodec
    if not hf:
        raise MissingExtraError(
            "the codec sonar needs Transformers and sentencepiece: pip install 'lexalcm[hf]' "
            "(or Meta's own package, in an environment of its own: pip install 'lexalcm[sonar]')"
        )
    return SonarHfCodec


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
