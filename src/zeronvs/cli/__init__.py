"""The command line: one file per subcommand; the only place that prints, parses or exits.

Only the module of the requested subcommand is imported, so that --help is fast.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches

from zeronvs._core.errors import InputError
from zeronvs._core.version import __version__
from zeronvs.cli.frame import guarded

VERBS = {
    "scene": "a walkable 360-degree scene of one photograph",
    "views": "new views of one photograph, without a scene",
    "estimate": "field of view, elevation, depth and scale of a photograph",
    "render": "a video of a finished scene along a camera path",
    "export": "files of a finished scene for other programs",
    "view": "look around in a finished scene, on a page served on this machine",
    "app": "a page that makes scenes of photographs, on this machine or in its network",
    "data": "data sets to shards, visual checks, procedural scenes",
    "train": "train or fine-tune a model on shards of posed images",
    "evaluate": "the model, or scenes of one photograph, on held-out views, beside baselines",
    "study": "which of two methods people prefer: pairs of videos on a page, and the report",
    "model": "weights by name: list, fetch, import; convert weights, or describe a model",
    "doctor": "capabilities of this machine, and the cost of each missing part",
    "completion": "a script that completes these words in bash and zsh",
}
"""Each verb is the module of its name in this folder, with a function `run(arguments)`."""

MANY_SPINS, FEW_SPINS = "1000000", "1000"
"""How often an idle OpenMP thread looks for work before it sleeps: many where fields are fitted or
models trained, in thousands of small parallel pieces. With the default of libgomp threads fell
asleep between them, and a step took twice the time (docs/log.md). Elsewhere threads that spin only
take time from other threads. Read by libgomp when torch is imported; the user's own value wins."""
FITTING_WORDS = ("train", "field", "fast", "paper", "--model")
"""Arguments that lead to such work."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb and exit: 0 done, 1 the run went wrong, 2 wrong input, 130 stopped."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("GOMP_SPINCOUNT", thread_spins(words))
    raise SystemExit(guarded(lambda: _run(words), words))


def thread_spins(words: Sequence[str]) -> str:
    """Return many spins where the arguments fit a radiance field or train a model."""
    parts = {part for word in words for part in word.split("=", 1)}
    return FEW_SPINS if parts.isdisjoint(FITTING_WORDS) else MANY_SPINS


def _run(words: Sequence[str]) -> None:
    verb = words[0] if words else "--help"
    if verb in ("--help", "-h", "help"):
        print(help_text())
    elif verb in ("--version", "-V"):
        print(f"zeronvs {__version__}")
    elif verb in VERBS:
        importlib.import_module(f"zeronvs.cli.{verb}").run(words[1:])
    else:
        raise InputError(_unknown(verb))


def help_text() -> str:
    """Return the overview that `zeronvs --help` prints."""
    verbs = "\n".join(f"  {verb:<12}{summary}" for verb, summary in VERBS.items())
    return (
        "usage: zeronvs VERB ...\n\n"
        "One photograph in, new views and a 360-degree scene out.\n\n"
        f"{verbs}\n\n"
        "  zeronvs scene photo.jpg -o out      everything with its defaults\n"
        "  zeronvs VERB --help                 options of a verb\n"
        "  zeronvs --version"
    )


def _unknown(verb: str) -> str:
    """Return the message for an unknown verb, with the likely intention."""
    if "." in verb and not verb.startswith("-"):
        return f"give a verb first: zeronvs scene {verb} -o out"
    close = get_close_matches(verb, VERBS, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"the verbs are: {', '.join(VERBS)}"
    return f"there is no verb {verb!r}; {hint}"
