"""docs/recipe.md lists every constant of `paper`; the table and the preset change together only."""

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from zeronvs.diffusion.sampling import NoiseSchedule
from zeronvs.distillation.config import DistillConfig, RenderStage
from zeronvs.distillation.loop import make_optimizers
from zeronvs.distillation.noise_levels import PiecewiseLinear
from zeronvs.recipes.presets import PAPER
from zeronvs.scene.field import FieldConfig
from zeronvs.scene.field_scene import FieldScene
from zeronvs.scene.hash_grid import HashGridConfig
from zeronvs.scene.proposal import ProposalConfig


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings of nested configurations by their dotted names."""
    for entry in fields(config):
        name, value = prefix + entry.name, getattr(config, entry.name)
        if is_dataclass(value) and not isinstance(value, PiecewiseLinear):
            yield from leaves(value, f"{name}.")
        else:
            yield name, value


def shown(name: str, value: Any) -> str:
    """Return a value as the table has it."""
    if isinstance(value, PiecewiseLinear):
        return ", ".join(f"{step}: {level:g}" for step, level in value.points)
    if isinstance(value, tuple) and isinstance(value[0], RenderStage):
        return "; ".join(
            f"from {stage.from_step}: {stage.sds_views} of {stage.sds_size_px} px, photo "
            f"{stage.reference_size_px} px"
            for stage in value
        )
    if isinstance(value, tuple):
        numbers = [math.degrees(x) for x in value] if name.endswith("_rad") else value
        return ", ".join(f"{number:.10g}" for number in numbers)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:.10g}"
    return "none" if value is None else value


def settings(config: DistillConfig) -> dict[str, str]:
    """Return what the code has, by the names of the table."""
    found = {f"`{name}`": shown(name, value) for name, value in leaves(config)}
    tiny = HashGridConfig(levels=2, log2_table_size=6)
    scene = FieldScene(FieldConfig(grid=tiny), config.render_config, ProposalConfig(grid=tiny))
    for name, optimizer in make_optimizers(scene, config).items():
        (group,) = optimizer.param_groups
        numbers = (*group["betas"], group["eps"], group["weight_decay"])
        found[f"Adam of the {name}: betas, eps, decay"] = shown("", numbers)
    schedule = NoiseSchedule()
    numbers = (schedule.beta_start, schedule.beta_end, schedule.timesteps)
    return found | {"noise schedule: betas, timesteps": shown("", numbers)}


@pytest.fixture(scope="module")
def table() -> dict[str, tuple[str, str, str]]:
    """Return the rows of the table: setting to published, ours, why."""
    text = (Path(__file__).parents[2] / "docs" / "recipe.md").read_text(encoding="utf-8")
    section = text.split("## Every constant")[1].split("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("|")
    ]
    return {name: (published, ours, why) for name, published, ours, why in rows[2:]}


def test_every_setting_of_paper_is_in_the_table_with_the_value_that_it_has(table):
    assert {name: ours for name, (_, ours, _) in table.items()} == settings(PAPER.distill)


def test_what_differs_from_the_published_recipe_says_why_and_nothing_else_does(table):
    for name, (published, ours, why) in table.items():
        assert bool(why) == (published != ours), name


def test_a_changed_preset_is_seen(table):
    written = {name: ours for name, (_, ours, _) in table.items()}
    distill = PAPER.distill
    changes = [
        replace(distill, guidance_scale=7.5),
        replace(distill, weights=replace(distill.weights, normal_smoothness=10.0)),
        replace(distill, stages=distill.stages[:1]),
        replace(distill, viewpoints=replace(distill.viewpoints, elevation_range_rad=None)),
        replace(distill, field_learning_rate=PiecewiseLinear(((0, 5e-3), (4000, 5e-4)))),
        replace(distill, mixed_precision=False),
    ]
    for changed in changes:
        assert settings(changed) != written
