"""Where an audit reads L1: a node's public API, or a directory in which an earlier audit kept what it was shown.

Responsible for HTTP, files and bounds. Must not judge anything: whatever comes is checked by who asked.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import httpx

from layerlab.audit.auditor import SourceError
from layerlab.audit.plain import MALFORMED, Plain, packed, plain

MAX_ANSWER: Final = 80 * 1024 * 1024
TIMEOUT_SECONDS: Final = 30.0
MAX_BITS: Final = 16
GENESIS, BLOCKS, RECEIPTS, STATE = "genesis", "blocks", "receipts", "state"


class NodeSource:
    """An L1 node. ``kept`` fills with all it showed, if that is to be saved."""

    def __init__(self, url: str, *, keep: bool = False, transport: httpx.BaseTransport | None = None) -> None:
        self.name = url
        self._client = httpx.Client(
            base_url=url, timeout=TIMEOUT_SECONDS, trust_env=False, transport=transport
        )
        self.kept: dict[str, list[Plain]] | None = {BLOCKS: [], RECEIPTS: [], STATE: []} if keep else None

    def close(self) -> None:
        self._client.close()

    def final(self) -> int:
        try:  # a node keeps the state that it was asked for a while: then it can be read part by part
            height = self._get("/state", {"part": 0, "bits": MAX_BITS})[0]
        except _NotShownError:
            height = plain(packed(self._get("/p2p/status", json=True)))["final_height"]
        if type(height) is not int or height < 0:
            raise SourceError(f"{self.name} does not say which block is final")
        return height

    def blocks(self, start: int) -> Sequence[Plain]:
        return self._list(BLOCKS, "/certified-blocks", start)

    def receipts(self, start: int) -> Sequence[Sequence[bytes]]:
        return self._list(RECEIPTS, "/receipts", start)

    def _list(self, what: str, path: str, start: int) -> list[Plain]:
        found = self._get(path, {"from": start})
        if not isinstance(found, list):
            raise SourceError(f"{self.name}{path}: not a list")
        return self._keep(what, found)

    def state(self, height: int) -> Mapping[bytes, bytes] | None:
        for bits in range(0, MAX_BITS + 1, 4):
            try:
                found = dict(self._entries(height, bits))
            except _TooLargeError:
                continue
            except _NotShownError:
                return None
            self._keep(STATE, [[key, value] for key, value in found.items()])
            return found
        raise SourceError(f"{self.name} shows no part of its state: all are too large")

    def _entries(self, height: int, bits: int) -> Iterator[tuple[bytes, bytes]]:
        for part in range(1 << bits):
            answer = self._get("/state", {"height": height, "part": part, "bits": bits})
            if answer[0] != height:
                raise SourceError(f"{self.name} was asked for the state of block {height}, gave {answer[0]}")
            yield from answer[2]

    def _keep(self, what: str, items: list[Plain]) -> list[Plain]:
        if self.kept is not None:
            self.kept[what] += items
        return items

    def _get(self, path: str, params: Mapping[str, int] | None = None, *, json: bool = False) -> Any:
        try:
            with self._client.stream("GET", path, params=params) as response:
                body = bytearray()
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > MAX_ANSWER:
                        raise SourceError(f"{self.name}{path}: an answer of over {MAX_ANSWER} bytes")
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise SourceError(f"{self.name} cannot be reached ({type(error).__name__})") from None
        if response.status_code != 200:
            raise _refusal(self.name + path, response.status_code, bytes(body))
        try:
            return httpx.Response(200, content=bytes(body)).json() if json else plain(bytes(body))
        except MALFORMED:
            raise SourceError(f"{self.name}{path}: an answer that cannot be read") from None


class _TooLargeError(SourceError):
    pass


class _NotShownError(SourceError):
    pass


def _refusal(where: str, status: int, body: bytes) -> SourceError:
    if b"part_too_large" in body:
        return _TooLargeError(where)
    kind = _NotShownError if status == 404 else SourceError
    return kind(f"{where} answers with status {status}")


class ArchiveSource:
    """A directory that `save` has written."""

    def __init__(self, directory: Path) -> None:
        self.name = str(directory)
        self._blocks = self._read(directory / BLOCKS)
        self._receipts = self._read(directory / RECEIPTS)
        self._state = self._read(directory / STATE)

    @staticmethod
    def _read(file: Path) -> list[Plain]:
        try:
            found = plain(file.read_bytes())
        except OSError as error:
            raise SourceError(f"{str(file)!r}: {error.strerror}") from None
        except MALFORMED:
            raise SourceError(f"{str(file)!r} cannot be read: it is not what --save writes") from None
        if not isinstance(found, list):
            raise SourceError(f"{str(file)!r} is not what --save writes")
        return found

    def close(self) -> None:
        """Nothing is open."""

    def final(self) -> int:
        return len(self._receipts)

    def blocks(self, start: int) -> Sequence[Plain]:
        return self._blocks[start - 1 :]

    def receipts(self, start: int) -> Sequence[Sequence[bytes]]:
        return self._receipts[start - 1 :]

    def state(self, height: int) -> Mapping[bytes, bytes] | None:
        return dict(self._state) if self._state else None


def save(directory: Path, genesis: bytes, kept: Mapping[str, list[Plain]], height: int) -> None:
    """Keep what a node showed up to L1 block ``height``. Raises `SourceError` if it cannot be written."""
    cut = {BLOCKS: kept[BLOCKS], RECEIPTS: kept[RECEIPTS][:height], STATE: kept[STATE]}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / GENESIS).write_bytes(genesis)
        for name, items in cut.items():
            (directory / name).write_bytes(packed(items))
    except OSError as error:
        raise SourceError(f"{str(directory)!r} cannot be written: {error.strerror}") from None
