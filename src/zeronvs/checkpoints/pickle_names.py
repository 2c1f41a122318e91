"""Which names a checkpoint may carry: plain data, unknown things to read past, and danger.

Nothing named in a checkpoint is ever imported or run, whatever the answer here; the answer says
whether the file is read past the name or refused aloud.
"""

import sys

_DANGEROUS_MODULES = {
    *("os", "posix", "nt", "posixpath", "ntpath", "sys", "subprocess", "_posixsubprocess"),
    *("shutil", "socket", "_socket", "socketserver", "ssl", "http", "urllib", "ftplib", "smtplib"),
    *("telnetlib", "poplib", "imaplib", "nntplib", "xmlrpc", "webbrowser", "antigravity"),
    *("importlib", "imp", "zipimport", "pkgutil", "runpy", "code", "codeop", "ctypes", "_ctypes"),
    *("pickle", "_pickle", "pickletools", "marshal", "shelve", "dbm", "sqlite3"),
    *("multiprocessing", "_multiprocessing", "threading", "_thread", "concurrent", "asyncio"),
    *("pty", "tty", "commands", "popen2", "mmap", "fcntl"),
    *("tempfile", "zipfile", "tarfile", "glob", "fileinput", "linecache"),
    *("pdb", "bdb", "cProfile", "profile", "pstats", "timeit", "trace", "doctest", "unittest"),
    *("pydoc", "idlelib", "tkinter", "turtle", "turtledemo", "lib2to3", "ensurepip", "venv"),
    *("distutils", "setuptools", "pip", "_osx_support", "site", "sysconfig", "nturl2path"),
    *("dill", "cloudpickle", "joblib", "IPython", "requests", "pexpect", "paramiko", "fabric"),
}
"""Modules (the first part of a name) that start programs, run code or reach files and networks."""

_DANGEROUS_NAMES = {
    *(f"builtins.{name}" for name in ("eval", "exec", "compile", "__import__", "open", "input")),
    *(f"builtins.{name}" for name in ("getattr", "setattr", "delattr")),
    *(f"builtins.{name}" for name in ("globals", "locals", "vars")),
    *(f"builtins.{name}" for name in ("breakpoint", "help", "exit", "quit", "memoryview")),
    *("io.open", "io.open_code", "io.FileIO", "_io.open", "_io.open_code", "_io.FileIO"),
    *(f"operator.{name}" for name in ("attrgetter", "methodcaller", "call")),
    *(f"types.{name}" for name in ("CodeType", "FunctionType", "LambdaType", "MethodType")),
    *("torch.hub", "torch.package", "torch.load", "torch.serialization.load", "torch.jit.load"),
    *("torch.utils.cpp_extension", "torch.utils.collect_env", "torch.utils.model_zoo"),
    *("torch.multiprocessing", "torch.ops.load_library", "torch.classes.load_library"),
    *("numpy.load", "numpy.fromfile", "numpy.f2py", "numpy.testing", "numpy.distutils"),
    *("numpy.ctypeslib", "pandas.read_pickle", "pandas.eval", "pandas.io"),
}
"""Names that do the same, each with all that lies below it."""

_ESCAPES = {
    *("os", "posix", "nt", "sys", "subprocess", "shutil", "socket", "importlib", "builtins"),
    *("eval", "exec", "system", "popen", "__import__", "__globals__", "__builtins__"),
    *("__subclasses__", "__getattribute__", "__reduce__", "__code__", "__dict__", "__class__"),
}
"""Parts of a name by which a pickle climbs from a harmless module to a dangerous one."""

_DATA_CALLS = {
    "_codecs": {"encode"},
    "array": {"array", "_array_reconstructor"},
    "builtins": {
        *("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list"),
        *("object", "range", "set", "slice", "str", "tuple", "type"),
    },
    "collections": {"defaultdict", "deque"},
    "copyreg": {"_reconstructor", "__newobj__", "__newobj_ex__"},
    "datetime": {"datetime", "date", "time", "timedelta", "timezone"},
    "functools": {"partial"},
    "itertools": {"count", "cycle", "repeat", "chain"},
    "logging": {"getLogger"},
    "operator": {"itemgetter"},
    "re": {"_compile"},
}
"""Lower-case names of the standard library that a pickle may call, because they build data."""

_DATA_PACKAGES = {
    *("torch", "numpy", "omegaconf", "pytorch_lightning", "lightning", "lightning_fabric"),
    *("lightning_utilities", "torchmetrics", "transformers", "diffusers", "ldm", "threestudio"),
    *("pandas", "scipy", "yacs", "addict", "easydict", "box", "jsonargparse", "wandb"),
}
"""Packages that checkpoints are made with: a call of one of their functions is read past."""


def is_dangerous(module: str, name: str) -> bool:
    """Return whether a checkpoint that so much as mentions this name is to be refused."""
    full = f"{module}.{name}"
    parts = full.split(".")
    if parts[0] in _DANGEROUS_MODULES or not _ESCAPES.isdisjoint(parts[1:]):
        return True
    return any(full == bad or full.startswith(f"{bad}.") for bad in _DANGEROUS_NAMES)


def may_be_called(module: str, name: str) -> bool:
    """Return whether a checkpoint may ask to call this (harmless) name.

    Classes may: their objects are the hyperparameters and callbacks of real files. Functions may
    where they are known to build data; any other is somebody's code that wants to run.
    """
    if name.split(".")[-1].lstrip("_")[:1].isupper():
        return True
    root = module.split(".")[0]
    if root in sys.stdlib_module_names:
        return name in _DATA_CALLS.get(module, ())
    return root in _DATA_PACKAGES
