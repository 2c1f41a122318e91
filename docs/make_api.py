"""Write docs/api.md from the docstrings of the public names: python docs/make_api.py."""

import inspect
from pathlib import Path

import zeronvs

PAGE = Path(__file__).with_name("api.md")


def page() -> str:
    """Return the text of the page."""
    names = [name for name in zeronvs.__all__ if not name.startswith("__")]
    parts = [
        "# API reference",
        "Everything here is importable from `zeronvs`. Made from the docstrings by "
        "`python docs/make_api.py`.",
    ]
    for name in names:
        parts += _entry(name, getattr(zeronvs, name))
    return "\n\n".join(parts) + "\n"


def _entry(name: str, item: object) -> list[str]:
    own = inspect.getdoc(item) or ""
    parts = [f"## {name}", _block(own)]
    if inspect.isclass(item):
        for member, value in vars(item).items():
            value = getattr(value, "__func__", getattr(value, "fget", value))
            documented = inspect.isfunction(value) and value.__doc__
            if documented and (member == "__call__" or not member.startswith("_")):
                parts += [f"### {name}.{member}", _block(inspect.getdoc(value) or "")]
    return parts


def _block(text: str) -> str:
    """Return a docstring as preformatted text: its indentation carries the arguments."""
    return f"```text\n{text}\n```"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
