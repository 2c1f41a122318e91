"""Settings of distillation: the published recipe as defaults, and what presets may change."""

import dataclasses
from dataclasses import dataclass, field, replace
from typing import Any

from zeronvs.distillation.anchors import AnchorConfig
from zeronvs.distillation.losses import LossWeights, RobustKind
from zeronvs.distillation.noise_levels import (
    PUBLISHED_STEPS,
    NoiseLevelConfig,
    PiecewiseLinear,
    constant,
)
from zeronvs.distillation.refresh import RefreshConfig
from zeronvs.distillation.viewpoints import ViewpointConfig
from zeronvs.scene.field import FieldConfig
from zeronvs.scene.proposal import ProposalConfig
from zeronvs.scene.renderer import RenderConfig

PUBLISHED_LEARNING_RATE = constant(5e-3)
_NOT_PART_OF_THE_RESULT = ("log_every", "checkpoint_seconds", "cuda_graph")


@dataclass(frozen=True, kw_only=True)
class RenderStage:
    """Number of pixels rendered per step, from some step on (published configs; paper B.2)."""

    from_step: int
    sds_views: int
    """Random views a step."""
    sds_size_px: int
    """Side of the random views."""
    reference_size_px: int
    """Height of the photo's view; its width follows the photo."""


PUBLISHED_STAGES = (
    RenderStage(from_step=0, sds_views=6, sds_size_px=128, reference_size_px=128),
    RenderStage(from_step=2000, sds_views=1, sds_size_px=256, reference_size_px=256),
)


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Settings of one run; the defaults are the paper's for one's own photo, 4,000 steps.

    One loop serves all presets: each step is the photo, plus supervised views where there are any,
    plus score distillation where it is on, and before some steps a supervised view is refreshed.
    """

    steps: int = PUBLISHED_STEPS
    stages: tuple[RenderStage, ...] = PUBLISHED_STAGES
    """Stages in rising order of `from_step`, the first from 0."""
    weights: LossWeights = field(default_factory=LossWeights)

    guidance_scale: float = 9.5
    """Classifier-free guidance of score distillation (7.5 on DTU)."""
    noise_levels: NoiseLevelConfig = field(default_factory=NoiseLevelConfig)
    viewpoints: ViewpointConfig = field(default_factory=ViewpointConfig)
    anchors: AnchorConfig = field(default_factory=AnchorConfig)

    reference_rays: int | None = None
    """Random rays of the photo a step; None = the whole photo, which normal smoothness needs."""
    reference_ray_noise: float = 2e-3
    """Standard deviation of the translation (scene units) and rotation (radians) applied to the
    photo's camera, drawn once per stage (published code, data/image.py, `set_rays`): a fixed
    offset, where a new one at each step would fit the photo through a blur."""
    supervised_rays: int = 4096
    """Random rays a step over all supervised views."""
    refresh: RefreshConfig | None = None
    """Iterative dataset update of the supervised views; None: they stay as they are."""
    supervised_error: RobustKind = "huber"
    """Penalty of colour errors on supervised views; that of the photo is always squared."""
    supervised_knee: float = 0.1
    """Colour difference from which the robust errors stop growing quadratically."""

    free_space_margin: float = 0.05
    """Share of the distance before a known depth that may hold content."""

    field_learning_rate: PiecewiseLinear = PUBLISHED_LEARNING_RATE
    proposal_learning_rate: PiecewiseLinear = PUBLISHED_LEARNING_RATE
    random_background: bool = True
    """A random colour behind each image, so that only what is solid can match."""
    background: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Behind the scene where the background is not random."""
    mixed_precision: bool = True
    """Evaluate the U-Net in float16, all else in float32 (published); on CUDA only."""
    cuda_graph: bool = False
    """Launch the U-Net in float16 as CUDA graphs; on CUDA only. Off, since it has not run yet."""

    field_config: FieldConfig = field(default_factory=FieldConfig)
    proposal_config: ProposalConfig = field(default_factory=ProposalConfig)
    render_config: RenderConfig = field(default_factory=RenderConfig)

    log_every: int = 10
    """Steps between lines of log.jsonl."""
    checkpoint_seconds: float = 30.0
    """Seconds between checkpoints, that is, the work lost by a kill."""

    def stage(self, step: int) -> RenderStage:
        """Return the stage that `step` (from 0) belongs to."""
        return [stage for stage in self.stages if stage.from_step <= step][-1]

    @property
    def uses_sds(self) -> bool:
        """Whether the steps have score distillation."""
        return self.weights.sds > 0

    @property
    def uses_model(self) -> bool:
        """Whether the diffusion model is evaluated."""
        return self.uses_sds or self.refresh is not None

    def with_steps(self, steps: int) -> "DistillConfig":
        """Return the same recipe in `steps` steps: every step number is scaled with it."""
        factor = steps / self.steps
        stages = tuple(
            replace(stage, from_step=round(stage.from_step * factor)) for stage in self.stages
        )
        return replace(
            self,
            steps=steps,
            stages=stages,
            refresh=self.refresh and self.refresh.compressed(factor),
            noise_levels=self.noise_levels.compressed(factor),
            viewpoints=self.viewpoints.compressed(factor),
            field_learning_rate=self.field_learning_rate.compressed(factor),
            proposal_learning_rate=self.proposal_learning_rate.compressed(factor),
        )

    def identity(self) -> dict[str, Any]:
        """Return the settings that the result depends on, as plain values."""
        settings = dataclasses.asdict(self)
        for name in _NOT_PART_OF_THE_RESULT:
            del settings[name]
        return settings
