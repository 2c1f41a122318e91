"""Cameras of exported images; see `zeronvs.formats.transforms_json`."""

from zeronvs.formats.transforms_json import write_transforms

__all__ = ["write_transforms"]
