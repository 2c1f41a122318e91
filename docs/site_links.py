"""A step of `mkdocs build`: links to files of the repository outside docs/ become plain text.

The pages are read in the repository, too, where links into the code lead somewhere.
"""

import re
from typing import Any

_OUTSIDE = re.compile(r"(?<!!)\[([^\]]*)\]\(\.\./[^)]*\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return the text of a page without links that leave the folder of the documentation."""
    return _OUTSIDE.sub(r"\1", markdown)
