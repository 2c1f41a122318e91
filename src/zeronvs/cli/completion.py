"""`zeronvs completion`: a script that completes verbs, flags and their choices in bash and zsh."""

import importlib
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import tyro

from zeronvs.cli import VERBS
from zeronvs.cli.arguments import PARSER_CONFIG, parse

_SCRIPT = """\
# zsh reads completions of bash, too.
if [ -n "${ZSH_VERSION-}" ]; then
    autoload -U +X compinit bashcompinit && compinit -u && bashcompinit
fi
_zeronvs() {
    local current="${COMP_WORDS[COMP_CWORD]}" words=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        words=@VERBS@
    elif [ "$COMP_CWORD" -eq 2 ]; then
        case "${COMP_WORDS[1]}" in
@KINDS@
        esac
    fi
    case "${COMP_WORDS[1]} ${COMP_WORDS[COMP_CWORD-1]}" in
@CHOICES@
    esac
    if [ -z "$words" ] && [ "${current#-}" != "$current" ]; then
        case "${COMP_WORDS[1]} ${COMP_WORDS[2]-} " in
@FLAGS@
        esac
    fi
    COMPREPLY=()
    if [ -n "$words" ]; then
        COMPREPLY=($(compgen -W "$words" -- "$current"))
    fi
}
complete -o default -o bashdefault -F _zeronvs zeronvs
"""


@dataclass(frozen=True, kw_only=True)
class CompletionArguments:
    """Print a script that completes zeronvs; for bash and zsh: eval "$(zeronvs completion)"."""


def run(words: Sequence[str]) -> None:
    """Print the script."""
    parse(CompletionArguments, words, "completion")
    print(script(), end="")


def argument_classes() -> dict[str, type]:
    """Return the dataclass of the arguments of each verb, and of each kind of a verb."""
    found: dict[str, type] = {}
    for verb in VERBS:
        module = importlib.import_module(f"zeronvs.cli.{verb}")
        for name, kind in vars(module).items():
            own = getattr(kind, "__module__", "") == module.__name__
            if own and name.endswith("Arguments") and isinstance(kind, type):
                rest = name.removesuffix("Arguments").removeprefix(verb.capitalize()).lower()
                found[f"{verb} {rest}".strip()] = kind
    return found


def script() -> str:
    """Return the script, which needs no Python to complete."""
    classes = argument_classes()
    kinds: dict[str, list[str]] = {}
    flags, choices = [], []
    for words, kind in classes.items():
        verb, _, of_verb = words.partition(" ")
        if of_verb:
            kinds.setdefault(verb, []).append(of_verb)
        options = dict(_options(kind))
        flags.append(f'"{words} "*) words={shlex.quote(" ".join([*options, "--help"]))} ;;')
        for flag, values in options.items():
            if values:
                choices.append(f'"{verb} {flag}") words={shlex.quote(" ".join(values))} ;;')
    of_verbs = [f"{verb}) words={shlex.quote(' '.join(names))} ;;" for verb, names in kinds.items()]
    parts = {"KINDS": of_verbs, "CHOICES": choices, "FLAGS": flags}
    text = _SCRIPT.replace("@VERBS@", shlex.quote(" ".join([*VERBS, "--help", "--version"])))
    for name, lines in parts.items():
        text = text.replace(f"@{name}@", "\n".join(f"        {line}" for line in lines))
    return text


def _options(kind: type) -> Iterator[tuple[str, list[str]]]:
    """Yield each flag of a dataclass, and the words that it takes where they are few."""
    for action in tyro.extras.get_parser(kind, config=PARSER_CONFIG)._actions:
        for flag in action.option_strings:
            if flag.startswith("--") and flag != "--help":
                values = {str(choice) for choice in action.choices or ()} - {"None"}
                yield flag, sorted(values)
