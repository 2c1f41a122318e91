"""Download of one large file: resumed where it broke off, checked, whole or not at all.

The content lies in `.NAME.part` until it is complete and has the known size and hash. A later call
resumes there, if the server still has the same file.
"""

import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path

from zeronvs._core.errors import InputError
from zeronvs._core.files import read_json, write_json
from zeronvs._core.progress import Progress, ProgressEvent, silent
from zeronvs._core.version import __version__
from zeronvs.checkpoints.weight_files import digest

MAX_BYTES = 2**36
"""Four times the largest file that is known."""
MAX_UNANNOUNCED_BYTES = 2**24
"""Of files whose size the server does not tell: configurations."""
_CHUNK_BYTES = 2**20
_STATE_BYTES = 2**12
_FINAL = (400, 401, 403, 404, 405, 410, 451)
"""Answers of a server that another try does not change."""
_BROKEN = (OSError, http.client.HTTPException)


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a download goes on without receiving anything."""

    timeout_s: float = 60.0
    """Silence after which a connection is given up."""
    attempts: int = 5
    """Connections in a row that bring nothing."""
    wait_s: float = 2.0
    """Pause before the second connection; it doubles each time."""


def download(
    address: str,
    path: Path,
    *,
    size_bytes: int | None = None,
    sha256: str | None = None,
    patience: Patience | None = None,
    progress: Progress = silent,
) -> None:
    """Fetch a file; one that is there already is kept.

    Args:
        address: A plain http or https address.
        path: Where to put it.
        size_bytes: Its size, where it is known.
        sha256: Its hash, where it is known.

    Raises:
        InputError: The server refuses, answers with something else, or the connection breaks off
            again and again; what was received is kept for the next call.
    """
    if path.is_file():
        return
    if not address.startswith(("http://", "https://")):
        raise InputError(f"{address} is no http or https address.")
    path.parent.mkdir(parents=True, exist_ok=True)
    transfer = _Transfer(address, path, size_bytes, progress)
    patience = Patience() if patience is None else patience
    failures = 0
    while True:
        before = transfer.received
        try:
            transfer.receive(patience.timeout_s)
            break
        except _BROKEN as error:
            _refuse_final(address, error)
            failures = 0 if transfer.received > before else failures + 1
            if failures >= patience.attempts:
                raise InputError(
                    f"{address} broke off at {transfer.received:,} bytes ({_reason(error)}); call "
                    "again to resume there."
                ) from error
            time.sleep(patience.wait_s * 2 ** max(failures - 1, 0))
    transfer.finish(sha256)


class _Transfer:
    """The received part of a file, and what is known of the file on the server."""

    def __init__(
        self, address: str, path: Path, size_bytes: int | None, progress: Progress
    ) -> None:
        self._address, self._path, self._progress = address, path, progress
        self._size_bytes = size_bytes
        self._part = path.with_name(f".{path.name}.part")
        self._state = path.with_name(f".{path.name}.part.json")
        self._tag = self._stored_tag()

    @property
    def received(self) -> int:
        """Bytes received so far."""
        return self._part.stat().st_size if self._part.is_file() else 0

    def receive(self, timeout_s: float) -> None:
        """Receive what is missing over one connection; `OSError` where it breaks off."""
        headers = {"User-Agent": f"zeronvs/{__version__}", "Accept-Encoding": "identity"}
        if self.received and self._tag:
            headers |= {"Range": f"bytes={self.received}-", "If-Range": self._tag}
        request = urllib.request.Request(self._address, headers=headers)
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            total = self._total(response)
            resumes = response.status == 206
            if not resumes:
                self._remember(response)
            self._refuse_answer(response, total, self.received if resumes else 0)
            if not resumes:
                self._part.unlink(missing_ok=True)
            with self._part.open("ab") as file:
                self._copy(response, file, total)
        if total not in (None, self.received):
            raise ConnectionError(f"{self.received:,} of {total:,} bytes")

    def finish(self, sha256: str | None) -> None:
        """Compare the file with what is known of it, and give it its name."""
        if sha256 is not None and (found := digest([self._part], self._progress)) != sha256:
            self._forget()
            raise InputError(
                f"{self._address} has the sha256 {found}; {sha256} was expected. It was not kept."
            )
        with self._part.open("rb") as file:
            os.fsync(file.fileno())
        self._part.replace(self._path)
        self._forget()

    def _total(self, response: http.client.HTTPResponse) -> int | None:
        """Return the size of the whole file; None where the server does not tell."""
        if response.status == 206:
            answer = response.headers.get("Content-Range", "")
            match = re.fullmatch(r"bytes (\d{1,15})-\d+/(\d{1,15})", answer)
            if match is None or int(match[1]) != self.received:
                self._forget()
                raise ConnectionError(f"it resumed elsewhere ({answer[:40]!r})")
            return int(match[2])
        length = response.headers.get("Content-Length", "")
        return int(length) if re.fullmatch(r"\d{1,15}", length) else None

    def _refuse_answer(
        self, response: http.client.HTTPResponse, total: int | None, received: int
    ) -> None:
        if response.headers.get_content_type() == "text/html":
            raise InputError(f"{self._address} answers with a web page, not with the file.")
        if total is None:
            return
        if self._size_bytes not in (None, total):
            raise InputError(
                f"{self._address} answers with {total:,} bytes; the file has {self._size_bytes:,}."
            )
        if total > MAX_BYTES:
            raise InputError(f"{self._address} has {total:,} bytes, more than any known weights.")
        free = shutil.disk_usage(self._part.parent).free
        if total - received > free:
            raise InputError(
                f"{self._part.parent} has {free:,} bytes free; {self._path.name} needs "
                f"{total - received:,}."
            )

    def _copy(
        self, response: http.client.HTTPResponse, file: BufferedWriter, total: int | None
    ) -> None:
        limit = MAX_UNANNOUNCED_BYTES if total is None else total
        done = file.tell()
        began, first, shown = time.monotonic(), done, -1
        while chunk := response.read1(_CHUNK_BYTES):
            file.write(chunk)
            done += len(chunk)
            if done > limit:
                raise InputError(f"{self._address} sends more than {limit:,} bytes.")
            if done >> 20 == shown:
                continue
            shown = done >> 20
            spent = max(time.monotonic() - began, 1e-3)
            self._progress(
                ProgressEvent(
                    f"download {self._path.name}",
                    max(shown, 1),
                    None if total is None else max(total >> 20, 1),
                    {"MiB/s": (done - first) / 2**20 / spent},
                )
            )

    def _stored_tag(self) -> str | None:
        """Return the validator of the part; the part is dropped where it is of another address."""
        try:
            state = read_json(self._state, max_bytes=_STATE_BYTES)
        except InputError:
            state = None
        known = isinstance(state, dict) and state.get("address") == self._address
        tag = state.get("tag") if isinstance(state, dict) and known else None
        if isinstance(tag, str) and re.fullmatch(r"[\x20-\x7e]{1,512}", tag):
            return tag
        self._forget()
        return None

    def _remember(self, response: http.client.HTTPResponse) -> None:
        """Keep what tells this version of the file from another (RFC 9110, 13.1.5: no weak tag)."""
        tag = response.headers.get("ETag", "")
        self._tag = tag if tag.startswith('"') else response.headers.get("Last-Modified")
        write_json(self._state, {"address": self._address, "tag": self._tag})

    def _forget(self) -> None:
        self._part.unlink(missing_ok=True)
        self._state.unlink(missing_ok=True)


def _refuse_final(address: str, error: Exception) -> None:
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        if error.code in _FINAL:
            raise InputError(f"{address} answers {error.code} ({error.reason}).") from error


def _reason(error: Exception) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return " ".join(str(reason).split())[:120] or type(error).__name__
