"""A folder of procedural scenes with a pairs.json."""

from pathlib import Path

import pytest
from posed_folder import write_pairs


@pytest.fixture(scope="session")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two scenes and five pairs in two classes."""
    folder = tmp_path_factory.mktemp("held_out")
    write_pairs(folder)
    return folder
