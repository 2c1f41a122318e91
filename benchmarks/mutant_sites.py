"""The places of a module that mutation testing changes, and the module with one of them changed.

What cannot change a result is no place: docstrings, strings, annotations, decorators, errors.
"""

import ast
import copy
import hashlib
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
NEGATED = {
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
SWAPPED = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
COMMUTATIVE = {"max", "min", "hypot", "maximum", "minimum"}
TEXT_KEYWORDS = {"message", "check", "stage", "source", "argument", "help", "name", "prefix"}
"""Keyword arguments that are text for people."""


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One changed place of one module."""

    room: str
    path: str
    """Relative to the repository."""
    line: int
    kind: str
    before: str
    after: str
    source: str
    """The whole module, changed."""

    @property
    def key(self) -> str:
        """Fingerprint of the changed module."""
        return hashlib.sha256(f"{self.path}\n{self.source}".encode()).hexdigest()[:16]


class _Sites(ast.NodeVisitor):
    """Collects the places of a module that can be changed, as (node, kind)."""

    def __init__(self) -> None:
        self.found: list[tuple[ast.AST, str]] = []

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            if default is not None:
                self.visit(default)
        for statement in node.body:
            self.visit(statement)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for statement in node.body:
            self.visit(statement)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self.found.append((node, "dropped statement"))
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        if all(isinstance(target, ast.Subscript) for target in node.targets):
            self.found.append((node, "dropped statement"))
        self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.found.append((node, "dropped statement"))
        if type(node.op) in SWAPPED and not _is_text(node.value):
            self.found.append((node, "arithmetic"))
        self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        positional = [a for a in node.args if not isinstance(a, ast.Starred)]
        commutes = isinstance(node.func, ast.Name | ast.Attribute) and (
            ast.unparse(node.func).split(".")[-1] in COMMUTATIVE
        )
        whole = len(positional) == len(node.args) >= 2 and not commutes
        if whole and _differ(node.args[0], node.args[1]):
            self.found.append((node, "swapped arguments"))
        self.visit(node.func)
        for argument in node.args:
            self.visit(argument)
        for keyword in node.keywords:
            if keyword.arg in TEXT_KEYWORDS:
                continue
            if keyword.arg is not None:
                self.found.append((keyword, "dropped keyword"))
            self.visit(keyword.value)

    def visit_Compare(self, node: ast.Compare) -> None:
        if len(node.ops) == 1 and type(node.ops[0]) in NEGATED:
            self.found.append((node, "comparison"))
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in SWAPPED and not (_is_text(node.left) or _is_text(node.right)):
            self.found.append((node, "arithmetic"))
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self.found.append((node, "boolean"))
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        self.found.append((node, "dropped sign"))
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self.found.append((node, "negated condition"))
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.found.append((node, "negated condition"))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool | int | float):
            self.found.append((node, "constant"))

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass

    visit_Raise = visit_Assert = visit_Import = visit_ImportFrom = visit_JoinedStr  # type: ignore


def _is_text(node: ast.AST) -> bool:
    """Return whether an expression is a string, as far as one can see."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str)
    if isinstance(node, ast.BinOp):
        return _is_text(node.left) or _is_text(node.right)
    return isinstance(node, ast.JoinedStr)


def _differ(first: ast.expr, second: ast.expr) -> bool:
    return ast.unparse(first) != ast.unparse(second)


def _changed(node: ast.AST, kind: str) -> ast.AST | None:
    """Return the node that replaces `node`; None removes it."""
    new = copy.deepcopy(node)
    if kind == "dropped statement":
        return ast.Pass()
    if kind == "dropped keyword":
        return None
    if kind == "comparison" and isinstance(new, ast.Compare):
        new.ops = [NEGATED[type(new.ops[0])]()]
    elif kind == "arithmetic" and isinstance(new, ast.BinOp | ast.AugAssign):
        new.op = SWAPPED[type(new.op)]()
    elif kind == "boolean" and isinstance(new, ast.BoolOp):
        new.op = ast.Or() if isinstance(new.op, ast.And) else ast.And()
    elif kind == "dropped sign" and isinstance(new, ast.UnaryOp):
        return new.operand
    elif kind == "negated condition" and isinstance(new, ast.If | ast.IfExp):
        new.test = ast.UnaryOp(ast.Not(), new.test)
    elif kind == "swapped arguments" and isinstance(new, ast.Call):
        new.args[:2] = [new.args[1], new.args[0]]
    elif kind == "constant" and isinstance(new, ast.Constant):
        value = new.value
        if isinstance(value, bool):
            new.value = not value
        elif isinstance(value, int):
            new.value = value + 1 if value < 16 else 2 * value
        elif isinstance(value, float):
            new.value = 2.0 * value if value else 1.0
    return new


class _Replace(ast.NodeTransformer):
    """Replaces one node of a tree."""

    def __init__(self, old: ast.AST, new: ast.AST | None) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST | None:
        return self.new if node is self.old else self.generic_visit(node)


def sites_of(path: Path) -> tuple[ast.Module, list[tuple[ast.AST, str]]]:
    """Return the tree of a module and the places of it that can be changed."""
    tree, sites = ast.parse(path.read_text(encoding="utf-8")), _Sites()
    sites.visit(tree)
    return tree, sites.found


def mutant_at(path: Path, room: str, number: int) -> Mutant:
    """Return the mutant of one place of a module."""
    tree, sites = sites_of(path)
    node, kind = sites[number]
    new = _changed(node, kind)
    before = ast.unparse(node) if not isinstance(node, ast.keyword) else str(node.arg)
    line = node.lineno  # type: ignore[attr-defined]
    _Replace(node, new).visit(tree)
    ast.fix_missing_locations(tree)
    return Mutant(
        room=room,
        path=str(path.relative_to(REPOSITORY)),
        line=line,
        kind=kind,
        before=before.splitlines()[0],
        after="" if new is None else ast.unparse(new).splitlines()[0],
        source=ast.unparse(tree) + "\n",
    )
