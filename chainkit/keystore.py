"""Keys at rest: one Ed25519 key in one file, encrypted and authenticated, under a passphrase that is costly to guess.

    Address: 0x<hex>
    -----BEGIN LAYERLAB ENCRYPTED KEY-----
    base64 of: 0x01, passes (4 bytes), KiB of memory (4 bytes), salt (16), nonce (24), XChaCha20-Poly1305 of the seed
    -----END LAYERLAB ENCRYPTED KEY-----

The key of the cipher is Argon2id (RFC 9106) of the passphrase: memory-hard, so that trying passphrases on a stolen file
takes 64 MiB each. The address line and the parameters are authenticated with it. Files in the older format, PKCS#8
(whose PBKDF2 is cheap to try, and whose cipher authenticates nothing), are still read and never written.

Responsible for reading and writing key files safely. Must not know whose key it is, nor what it
signs: ``keys`` signs and verifies, this module only stores.
"""

import base64
import binascii
import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError
from nacl.pwhash import argon2id

from chainkit.keys import KeyPair

MODE: Final = 0o600
MAX_FILE_BYTES: Final = 16_384
MAX_PASSPHRASE_BYTES: Final = 1023  # OpenSSL takes no more
PASSES, MEMORY_KIB = 3, 64 * 1024
"""RFC 9106, the second recommended choice: a tenth of a second of one core."""
MAX_PASSES: Final = 16
MAX_MEMORY_KIB: Final = 256 * 1024
"""A file that asks for more is refused: it is the file that says how much."""
_ADDRESS: Final = b"Address: 0x"
_BEGIN: Final = b"-----BEGIN LAYERLAB ENCRYPTED KEY-----\n"
_END: Final = b"\n-----END LAYERLAB ENCRYPTED KEY-----\n"
_VERSION: Final = b"\x01"
_HEAD_BYTES: Final = 1 + 4 + 4 + 16
_NONCE_BYTES: Final = 24
_SEALED_BYTES: Final = _HEAD_BYTES + _NONCE_BYTES + 32 + 16
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
    content = _sealed(keypair, secret)
    # A random suffix: what a crash left behind is in nobody's way.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        try:
            _write_new(temporary, content)
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
    if _BEGIN in data:
        return _opened(path, data, secret)
    return _load_pkcs8(path, data, secret)


def _sealed(keypair: KeyPair, secret: bytes) -> bytes:
    """The bytes of a key file."""
    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(_NONCE_BYTES)
    head = _VERSION + PASSES.to_bytes(4, "big") + MEMORY_KIB.to_bytes(4, "big") + salt
    line = _address_line(keypair)
    box = crypto_aead_xchacha20poly1305_ietf_encrypt(
        keypair.seed, line + head, nonce, _stretched(secret, head)
    )
    return line + _BEGIN + base64.b64encode(head + nonce + box) + _END


def _stretched(secret: bytes, head: bytes) -> bytes:
    """Argon2id of the passphrase with what ``head`` says."""
    passes, memory = int.from_bytes(head[1:5], "big"), int.from_bytes(head[5:9], "big")
    return argon2id.kdf(32, secret, head[9:], opslimit=passes, memlimit=memory * 1024)


def _opened(path: Path, data: bytes, secret: bytes) -> KeyPair:
    line, _, rest = data.partition(_BEGIN)
    damaged = KeyFileError(path, "is damaged: it is not what was saved", "restore a backup")
    try:
        sealed = base64.b64decode(rest.removesuffix(_END), validate=True)
    except (binascii.Error, ValueError):
        raise damaged from None
    head, nonce, box = (
        sealed[:_HEAD_BYTES],
        sealed[_HEAD_BYTES:][:_NONCE_BYTES],
        sealed[_HEAD_BYTES + _NONCE_BYTES :],
    )
    passes, memory = int.from_bytes(head[1:5], "big"), int.from_bytes(head[5:9], "big")
    whole = line + _BEGIN + base64.b64encode(sealed) + _END == data and len(sealed) == _SEALED_BYTES
    if not whole or head[:1] != _VERSION or not (1 <= passes <= MAX_PASSES and 8 <= memory <= MAX_MEMORY_KIB):
        raise damaged
    try:
        keypair = KeyPair(
            crypto_aead_xchacha20poly1305_ietf_decrypt(box, line + head, nonce, _stretched(secret, head))
        )
    except CryptoError:
        problem = "wrong passphrase, or the file is damaged"
        raise KeyFileError(path, problem, "try the passphrase again, or restore a backup") from None
    if line != _address_line(keypair):
        raise damaged
    return keypair


def _load_pkcs8(path: Path, data: bytes, secret: bytes) -> KeyPair:
    """The older format."""
    start = data.find(_ENCRYPTED)
    if start < 0:
        problem = "is not an encrypted private key"
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
