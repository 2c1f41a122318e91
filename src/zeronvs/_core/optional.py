"""The one door through which optional packages enter, at the moment of use."""

import importlib
from types import ModuleType


def require(package: str, extra: str) -> ModuleType:
    """Import an optional package, or say how to get it.

    Args:
        package: Name to import.
        extra: The extra of this project that installs it.

    Raises:
        ImportError: The package is missing; the message has the command that installs it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        message = f"{package} is not installed. Run: pip install 'zeronvs[{extra}]'"
        raise ImportError(message) from error
