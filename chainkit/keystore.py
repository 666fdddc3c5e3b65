"""Keys at rest: one Ed25519 key in one file, as encrypted PKCS#8 PEM (RFC 5958, RFC 8410).

The PEM is preceded by a line ``Address: 0x<hex>`` (explanatory text, RFC 7468 section 2). The cipher
of PKCS#8 authenticates nothing: a bit that flips on the disk can yield another key without an
error, and whoever used it would pay from, or to, an account that nobody has. The line tells.

Responsible for reading and writing key files safely. Must not know whose key it is, nor what it
signs: ``keys`` signs and verifies, this module only stores.
"""

import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from chainkit.keys import KeyPair

MODE: Final = 0o600
MAX_FILE_BYTES: Final = 16_384
MAX_PASSPHRASE_BYTES: Final = 1023  # OpenSSL takes no more
_ADDRESS: Final = b"Address: 0x"
_ENCRYPTED: Final = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"


class KeyFileError(Exception):
    """A key file that cannot be used; one line says what is wrong and what to do."""

    def __init__(self, path: Path, problem: str, remedy: str) -> None:
        # repr: a path may hold a line feed, and the promise is one line.
        super().__init__(f"key file {str(path)!r}: {problem}; {remedy}")
        self.path = path


def save_key(path: Path, keypair: KeyPair, passphrase: str) -> None:
    """Write ``keypair`` to a new file at ``path``, mode 0600, encrypted with ``passphrase``.

    The file appears complete and on disk, or not at all. An existing file is never replaced: it
    may be the only copy of a key.

    Raises
    ------
    KeyFileError
        If the passphrase is empty or unusable, the file exists, or it cannot be written.
    """
    secret = _passphrase_bytes(path, passphrase)
    pem = Ed25519PrivateKey.from_private_bytes(keypair.seed).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(secret)
    )
    # A random suffix: what a crash left behind is in nobody's way.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        try:
            _write_new(temporary, _address_line(keypair) + pem)
            # A hard link and not a rename, which would silently replace another key.
            path.hardlink_to(temporary)
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
        _sync_directory(path.parent)
    except FileExistsError:
        raise KeyFileError(path, "exists already", "move it away or choose another name") from None
    except OSError as error:
        remedy = "check that its directory exists and can be written"
        raise KeyFileError(path, f"cannot be written ({error.strerror})", remedy) from None


def load_key(path: Path, passphrase: str) -> KeyPair:
    """The key in the file at ``path``.

    Raises
    ------
    KeyFileError
        If the file is missing, unreadable, damaged, open to others than its owner (wider than
        0600), not an encrypted Ed25519 key with its address line, or the passphrase is empty or
        wrong.
    """
    secret = _passphrase_bytes(path, passphrase)
    data = _read_private(path)
    start = data.find(_ENCRYPTED)
    if start < 0:
        problem = "is not an encrypted private key (PKCS#8 PEM)"
        raise KeyFileError(path, problem, "make one with a passphrase, or give the right file")
    preamble, pem = data[:start], data[start:]
    try:
        key = load_pem_private_key(pem, secret)
    except UnsupportedAlgorithm:
        raise _not_ed25519(path) from None
    except (ValueError, TypeError):
        # The cipher cannot tell the two apart.
        problem = "wrong passphrase, or the file is damaged"
        raise KeyFileError(path, problem, "try the passphrase again, or restore a backup") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise _not_ed25519(path)
    keypair = KeyPair(key.private_bytes_raw())
    if preamble != _address_line(keypair):
        problem = "its key is not that of the address in its first line, so it is damaged"
        raise KeyFileError(path, problem, "restore a backup, or save the key anew")
    return keypair


def _address_line(keypair: KeyPair) -> bytes:
    return _ADDRESS + keypair.address.hex().encode() + b"\n"


def _not_ed25519(path: Path) -> KeyFileError:
    return KeyFileError(path, "holds a key that is not Ed25519", "give the file of an Ed25519 key")


def _passphrase_bytes(path: Path, passphrase: str) -> bytes:
    if not isinstance(passphrase, str) or not passphrase:
        raise KeyFileError(path, "the passphrase is empty", "give one")
    try:
        secret = passphrase.encode()
    except UnicodeEncodeError:
        raise KeyFileError(path, "the passphrase is not valid text", "give another") from None
    if len(secret) > MAX_PASSPHRASE_BYTES:
        problem = f"the passphrase is longer than {MAX_PASSPHRASE_BYTES} bytes"
        raise KeyFileError(path, problem, "give a shorter one")
    return secret


def _write_new(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, MODE)  # whatever the umask
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_private(path: Path) -> bytes:
    """The bytes of a file that is its owner's alone. Checks the open file, not the name."""
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            _check_private(path, os.fstat(file.fileno()))
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise KeyFileError(path, "does not exist", "create the key or correct the path") from None
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise KeyFileError(path, problem, "give the path of a key file that you own") from None
    if len(data) > MAX_FILE_BYTES:
        raise KeyFileError(path, "is too large for a key file", "give the path of a key file")
    return data


def _open_without_waiting(name: str, flags: int) -> int:
    # O_NONBLOCK: a FIFO in the file's place must not hang the start.
    return os.open(name, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _check_private(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise KeyFileError(path, "is not a regular file", "give the path of a key file")
    mode = stat.S_IMODE(status.st_mode)
    if mode & ~MODE:
        problem = f"its permissions {mode:04o} are wider than 0600"
        raise KeyFileError(path, problem, "chmod 600 it, and change the key if others read it")
