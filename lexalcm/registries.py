"""Everything that has a name and can be added: one line each, and the only place where a name is listed.

Importing this imports nothing of what is listed, so that help texts and `lcm --version` stay quick. What each kind must
hold, and how another package adds to it: `docs/extending.md`.
"""

from typing import TYPE_CHECKING

from lexalcm.errors import CodecError, ConfigError
from lexalcm.registry import Registry

if TYPE_CHECKING:
    from lexalcm.codec.base import Codec
    from lexalcm.model.lcm import LCM

CODECS: "Registry[type[Codec]]" = Registry(
    "codec",
    {
        "lsa": "lexalcm.codec.lsa:LsaCodec",
        "sonar": "lexalcm.codec.sonar:SonarCodec",
        "sonar-hf": "lexalcm.codec.sonar_hf:SonarHfCodec",
        "sonar-space": "lexalcm.codec.sonar_space:SonarSpaceCodec",
    },
    CodecError,
)
"""From sentences to concepts and back."""

ARCHITECTURES: "Registry[type[LCM]]" = Registry(
    "architecture",
    {
        "base": "lexalcm.model.base:BaseLCM",
        "one-tower": "lexalcm.model.one_tower:OneTowerLCM",
        "two-tower": "lexalcm.model.two_tower:TwoTowerLCM",
    },
    ConfigError,
)
