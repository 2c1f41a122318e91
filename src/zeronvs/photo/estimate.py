"""An estimated number together with where it comes from and how far it may be off."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One number about a photograph."""

    value: float
    source: str
    """Where it comes from, in words: "given", "EXIF ...", "default", ..."""
    spread: float
    """One standard deviation, in the unit of the value; 0 where the user gave the number."""


def averaged(first: Estimate, second: Estimate, source: str) -> Estimate:
    """Average two independent estimates by their spreads (inverse variances)."""
    first_weight, second_weight = first.spread**-2, second.spread**-2
    total = first_weight + second_weight
    value = (first_weight * first.value + second_weight * second.value) / total
    return Estimate(value=value, source=source, spread=total**-0.5)


def given(value: float) -> Estimate:
    """Wrap a number that the user gave; it always wins."""
    return Estimate(value=value, source="given", spread=0.0)
