"""Making our pipeline known to `diffusers.DiffusionPipeline.from_pretrained`.

It looks up the class that a folder names as an attribute of the package `diffusers`. Importing
either package is slow, so that the class is put there as a lazy attribute, once diffusers is
imported. A folder's own code is never run.
"""

import importlib
import importlib.util
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

CLASS_NAME, HOME = "ZeroNVSPipeline", "zeronvs.diffusion.pipeline"


def register() -> None:
    """Add the attribute to diffusers, now or when it is imported."""
    if "diffusers" in sys.modules:
        _add_attribute()
    elif not any(isinstance(finder, _DiffusersFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _DiffusersFinder())


def _add_attribute() -> None:
    vars(sys.modules["diffusers"])["__getattr__"] = _lazy_attribute  # PEP 562


def _lazy_attribute(name: str) -> Any:
    if name != CLASS_NAME:
        raise AttributeError(f"module 'diffusers' has no attribute {name!r}")
    return getattr(importlib.import_module(HOME), CLASS_NAME)


class _DiffusersFinder(MetaPathFinder):
    """Finds diffusers by the default finders, and adds the attribute after its import."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the spec of diffusers with an extended `exec_module`; None for other modules."""
        if fullname != "diffusers":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_add(module: Any) -> None:
                run(module)
                _add_attribute()

            spec.loader.exec_module = run_and_add
        return spec
