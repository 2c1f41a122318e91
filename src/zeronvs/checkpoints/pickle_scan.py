"""Limits on the pickle of a checkpoint, checked on its opcodes before anything is built.

A pickle of a few hundred bytes can ask for gigabytes of memo, or for a tuple that refers to itself
so often that hashing it takes for ever. `pickletools` lists opcodes without building objects; their
documented effect on the stack is enough to follow how large each object would be.
"""

import pickletools
from dataclasses import dataclass
from typing import Any

from zeronvs._core.errors import InputError

MAX_BYTES = 2**26
"""The index of the released checkpoint has about a megabyte."""
MAX_OPCODES = 2**22
MAX_DEPTH = 200
MAX_EXPANDED = 2**24
"""Leaves of a tuple when everything it shares is written out."""
_ITEM_BYTES = {
    **dict.fromkeys(("DoubleStorage", "LongStorage", "ComplexFloatStorage"), 8),
    **dict.fromkeys(("FloatStorage", "IntStorage"), 4),
    **dict.fromkeys(("HalfStorage", "BFloat16Storage", "ShortStorage"), 2),
    **dict.fromkeys(("CharStorage", "ByteStorage", "BoolStorage", "UntypedStorage"), 1),
}


@dataclass(frozen=True)
class _Shape:
    """What is known of an object on the stack."""

    leaves: int = 1
    depth: int = 0
    value: Any = None
    """Of strings, numbers, names of globals, and tuples of these."""


_MARK = _Shape(leaves=0)


def storage_sizes(pickled: bytes) -> dict[str, int]:
    """Check a pickle and return the bytes of each storage that it refers to, by record name.

    Raises:
        InputError: It is no pickle of tensors, or beyond the limits.
    """
    if len(pickled) > MAX_BYTES:
        raise InputError(f"its index has {len(pickled)} bytes; at most {MAX_BYTES} are read")
    stack: list[_Shape] = []
    memo: dict[int, _Shape] = {}
    sizes: dict[str, int] = {}
    for count, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
        if count > MAX_OPCODES or (isinstance(argument, int) and abs(argument) >= 2**62):
            raise InputError("its index is larger than that of any model")
        name = opcode.name
        if name.endswith("PUT") or name == "MEMOIZE":
            index = len(memo) if argument is None else int(argument)
            if index > MAX_OPCODES:
                raise InputError(f"its index asks for a memo of {index} entries")
            memo[index] = stack[-1]
        elif name.endswith("GET"):
            stack.append(memo[int(argument or 0)])
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "POP":
            stack.pop()
        else:
            _apply(opcode, argument, stack)
        if name == "BINPERSID":
            key, size = _storage_of(stack.pop())
            sizes[key] = max(size, sizes.get(key, 0))
            stack.append(_Shape())
    return sizes


def _apply(opcode: pickletools.OpcodeInfo, argument: Any, stack: list[_Shape]) -> None:
    """Replace what an opcode takes from the stack by what it puts there."""
    before, after = opcode.stack_before, opcode.stack_after
    taken: list[_Shape] = []
    if pickletools.markobject in before:
        while (top := stack.pop()) is not _MARK:
            taken.append(top)
        before = before[: before.index(pickletools.markobject)]
    taken += [stack.pop() for _ in before]
    if opcode.name == "MARK":
        stack.append(_MARK)
    elif opcode.name == "BINPERSID":
        stack.append(taken[0])
    elif after:
        leaves = 1 + sum(shape.leaves for shape in taken)
        depth = 1 + max((shape.depth for shape in taken), default=-1)
        # A container that grows is as deep as its deepest item, however many are added.
        if opcode.name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS"):
            grown = taken[-1]
            depth = max([grown.depth, *(shape.depth + 1 for shape in taken[:-1])])
        if depth > MAX_DEPTH or leaves > MAX_EXPANDED:
            raise InputError("its index nests or repeats objects without end")
        value = argument
        if opcode.name == "STACK_GLOBAL":
            value = f"{taken[1].value} {taken[0].value}"
        if opcode.name.startswith("TUPLE"):
            value = tuple(shape.value for shape in reversed(taken)) if len(taken) <= 8 else None
        stack.append(_Shape(leaves, depth, value))


def _storage_of(identity: _Shape) -> tuple[str, int]:
    """Return record name and bytes of ("storage", type, key, location, number of elements)."""
    value = identity.value
    if not (isinstance(value, tuple) and len(value) == 5 and value[0] == "storage"):
        raise InputError("it refers to something other than tensors")
    _, kind, key, _, count = value
    item_bytes = _ITEM_BYTES.get(str(kind).split(" ")[-1])
    if item_bytes is None or not isinstance(key, str) or type(count) is not int or count < 0:
        raise InputError("it has a tensor whose kind of storage is not known")
    return key, count * item_bytes
