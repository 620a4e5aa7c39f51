"""Everything that has a name and can be added: one line each, and the only place where a name is listed.

Importing this imports nothing of what is listed, so that help texts and `lcm --version` stay quick. What each kind must
hold, and how another package adds to it: `docs/extending.md`.
"""

from typing import TYPE_CHECKING

from lexalcm.errors import CodecError, ConfigError
from lexalcm.registry import Registry

if TYPE_CHECKING:
    from lexalcm.codec.base import Codec
    from lexalcm.diffusion.samplers import Sampler
    from lexalcm.evaluate.metrics.metric import Metric
    from lexalcm.model.lcm import LCM
    from lexalcm.objective.base import Objective
    from lexalcm.train.engines.protocol import Engine

CODECS: "Registry[type[Codec]]" = Registry(
    "codec",
    {
        "lsa": "lexalcm.codec.lsa.codec:LsaCodec",
        "sonar": "lexalcm.codec.sonar.codec:SonarCodec",
        "sonar-hf": "lexalcm.codec.sonar.hf:SonarHfCodec",
        "sonar-space": "lexalcm.codec.sonar.space:SonarSpaceCodec",
    },
    CodecError,
)
"""From sentences to concepts and back."""

ARCHITECTURES: "Registry[type[LCM]]" = Registry(
    "architecture",
    {
        "base": "lexalcm.model.base.network:BaseLCM",
        "one-tower": "lexalcm.model.one_tower.network:OneTowerLCM",
        "two-tower": "lexalcm.model.two_tower.network:TwoTowerLCM",
    },
    ConfigError,
)
"""The networks."""

SAMPLERS: "Registry[Sampler]" = Registry(
    "sampler",
    {
        "ddim": "lexalcm.diffusion.samplers:DDIM",
        "dpm-solver++": "lexalcm.diffusion.samplers:DPM_SOLVER",
    },
    ConfigError,
)
"""From noise to a concept."""

OBJECTIVES: "Registry[type[Objective]]" = Registry(
    "objective",
    {
        "squared_l2": "lexalcm.objective.squared_l2:SquaredL2",
        "diffusion": "lexalcm.objective.diffusion:Diffusion",
    },
    ConfigError,
)
"""What a training makes small."""

METRICS: "Registry[Metric]" = Registry(
    "metric",
    {
        "squared_l2": "lexalcm.evaluate.metrics.metrics:SQUARED_L2",
        "contrastive_accuracy": "lexalcm.evaluate.metrics.metrics:CONTRASTIVE_ACCURACY",
        "cosine": "lexalcm.evaluate.metrics.metrics:COSINE",
        "context_cosine": "lexalcm.evaluate.metrics.metrics:CONTEXT_COSINE",
        "paraphrasing": "lexalcm.evaluate.metrics.metrics:PARAPHRASING",
        "coherence": "lexalcm.evaluate.metrics.metrics:COHERENCE",
        "round_trip_l2": "lexalcm.evaluate.metrics.metrics:ROUND_TRIP_L2",
        "rouge_l": "lexalcm.evaluate.metrics.metrics:ROUGE_L",
        "chrf": "lexalcm.evaluate.metrics.metrics:CHRF",
        "repetition": "lexalcm.evaluate.metrics.metrics:REPETITION",
        "mutual_information": "lexalcm.evaluate.metrics.metrics:MUTUAL_INFORMATION",
        "concept_precision": "lexalcm.evaluate.metrics.task_metrics:CONCEPT_PRECISION",
        "concept_recall": "lexalcm.evaluate.metrics.task_metrics:CONCEPT_RECALL",
        "concept_f1": "lexalcm.evaluate.metrics.task_metrics:CONCEPT_F1",
        "length_ratio": "lexalcm.evaluate.metrics.task_metrics:LENGTH_RATIO",
    },
    ConfigError,
)
"""How good predictions and written texts are, in the order of reports."""

ENGINES: "Registry[type[Engine]]" = Registry(
    "engine",
    {
        "single": "lexalcm.train.engines.single:SingleEngine",
        "ddp": "lexalcm.train.engines.ddp:DDPEngine",
        "fsdp": "lexalcm.train.engines.fsdp:FSDPEngine",
        "deepspeed": "lexalcm.train.engines.deepspeed:DeepSpeedEngine",
    },
    ConfigError,
)
"""How a model is held and updated, on one process or on many."""
