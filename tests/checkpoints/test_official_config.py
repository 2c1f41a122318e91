"""The YAML file beside a checkpoint comes from strangers, too."""

import os

import pytest

from zeronvs._core.errors import InputError
from zeronvs.checkpoints.architecture_reading import (
    OfficialConfig,
    _num_heads,
    read_official_config,
)

BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{chr(98 + k)}: &{chr(98 + k)} [{', '.join([f'*{chr(97 + k)}'] * 8)}]\n" for k in range(12)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BOMB, "aliases"),
        ("a: &a [*a]", "aliases"),
        ("[" * 10_000, "YAML"),
        ("a: !!python/object/apply:os.system ['true']", "YAML"),
        ("a: {[]: 1}", "YAML"),
        ("- 1", "list"),
        ("", "NoneType"),
        ("a: 1\n" + "#" * 2**20, "larger than"),
        ("\x00", "YAML"),
    ],
)
def test_what_is_no_plain_configuration_is_refused_in_one_line(tmp_path, text, says):
    path = tmp_path / "model.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=says) as caught:
        read_official_config(path)
    assert "\n" not in str(caught.value)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.yaml")
    with pytest.raises(InputError, match="not a file"):
        read_official_config(tmp_path / "model.yaml")


@pytest.mark.parametrize("value", [0, -1, 1.5, float("inf"), float("nan"), "8", None, [8], 10**12])
def test_a_number_of_heads_that_no_model_has_is_refused(value):
    with pytest.raises(InputError, match="num_heads"):
        _num_heads(OfficialConfig({"num_heads": value}))
