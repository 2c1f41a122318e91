"""Completion: the printed script completes verbs, flags and choices, in bash and in zsh."""

import shutil
import subprocess
from pathlib import Path

import pytest

from zeronvs.cli import VERBS

ASK = """
source {script}
COMP_WORDS=({words}); COMP_CWORD={last}
_zeronvs
echo "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def script(zeronvs, tmp_path: Path, capsys) -> Path:
    assert zeronvs("completion") == 0
    (tmp_path / "script.sh").write_text(capsys.readouterr().out)
    return tmp_path / "script.sh"


def complete(script: Path, shell: str, words: str) -> list[str]:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}, and this machine has none")
    program = ASK.format(script=script, words=words, last=len(words.split()) - 1)
    if shell == "zsh":  # as its bashcompinit calls functions of bash
        as_sh = "emulate -L sh; setopt kshglob noshglob braceexpand nokshautoload"
        program = program.replace("_zeronvs\n", f"() {{ {as_sh}; _zeronvs }}\n")
    flags = ["--norc"] if shell == "bash" else ["-f"]
    done = subprocess.run(
        [shell, *flags, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""
    # zsh compares with what was typed afterwards, by itself.
    typed = words.split()[-1].strip("'")
    return [word for word in done.stdout.split() if word.startswith(typed)]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("zeronvs es", ["estimate"]),
        ("zeronvs ''", [*VERBS, "--help", "--version"]),
        ("zeronvs model ''", ["list", "fetch", "import", "convert", "info"]),
        ("zeronvs scene photo.jpg --depth", ["--depth-model"]),
        ("zeronvs scene photo.jpg --preset p", ["paper", "preview"]),
        ("zeronvs export out --spz-v", ["--spz-version"]),
        ("zeronvs data convert --image-", ["--image-format"]),
        ("zeronvs scene ph", []),  # the shell's own completion of files follows
    ],
)
def test_words_are_completed(words: str, expected: list[str], shell: str, script: Path):
    assert complete(script, shell, words) == expected


def test_the_documented_line_works_in_bash(script: Path):
    line = f'eval "$(cat {script})"; complete -p zeronvs'
    done = subprocess.run(
        ["bash", "--norc", "-c", line], capture_output=True, text=True, check=True, timeout=60
    )
    assert "-F _zeronvs zeronvs" in done.stdout
