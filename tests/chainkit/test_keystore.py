"""Key files: what is written, who may read it, and what each bad file is refused with."""

import base64
import contextlib
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chainkit import keystore
from chainkit.keys import dev_keypair
from chainkit.keystore import KeyFileError, load_key, save_key

ALICE = dev_keypair("alice")
PASSPHRASE = "correct horse battery staple"


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests are not about how long a guess takes, but for the one that is."""
    monkeypatch.setattr(keystore, "PASSES", 1)
    monkeypatch.setattr(keystore, "MEMORY_KIB", 8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "alice.pem"


@pytest.fixture
def saved(path: Path) -> Path:
    save_key(path, ALICE, PASSPHRASE)
    return path


def refused(path: Path, passphrase: Any = PASSPHRASE) -> str:
    """The one line that ``load_key`` refuses the file with."""
    with pytest.raises(KeyFileError) as caught:
        load_key(path, passphrase)
    message = str(caught.value)
    assert "\n" not in message
    assert "; " in message  # what is wrong; what to do
    assert PASSPHRASE not in message
    assert ALICE.seed.hex() not in message
    return message


def put(path: Path, data: bytes) -> Path:
    path.touch(0o600)
    path.write_bytes(data)
    return path


def pem(key: Any, encryption: KeySerializationEncryption | None = None) -> bytes:
    protection = encryption or BestAvailableEncryption(PASSPHRASE.encode())
    encoded = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)
    assert isinstance(encoded, bytes)
    return encoded


def test_a_saved_key_loads_again(saved: Path) -> None:
    loaded = load_key(saved, PASSPHRASE)
    assert loaded == ALICE
    assert loaded.seed == ALICE.seed


@pytest.mark.parametrize("passphrase", ["x", " ", "pässwörd \U0001f511", "a\0b", "a" * 1023])
def test_any_text_is_a_passphrase(path: Path, passphrase: str) -> None:
    save_key(path, ALICE, passphrase)
    assert load_key(path, passphrase) == ALICE


def test_the_file_is_encrypted_and_names_the_address(saved: Path) -> None:
    data = saved.read_bytes()
    address, _, rest = data.partition(b"\n")
    assert address == b"Address: 0x" + ALICE.address.hex().encode()
    assert rest.startswith(b"-----BEGIN LAYERLAB ENCRYPTED KEY-----\n")
    assert ALICE.seed not in data
    assert ALICE.seed not in base64.b64decode(rest.splitlines()[1])


def test_a_guess_costs_argon2id_with_64_mib(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is shipped, not what the other tests use: the parameters stand in the file, and are what is computed."""
    monkeypatch.undo()
    asked: list[tuple[int, int]] = []
    real = keystore.argon2id.kdf

    def kdf(*args: Any, opslimit: int, memlimit: int) -> bytes:
        asked.append((opslimit, memlimit))
        return real(*args, opslimit=opslimit, memlimit=memlimit)

    monkeypatch.setattr(keystore.argon2id, "kdf", kdf)
    save_key(path, ALICE, PASSPHRASE)
    assert load_key(path, PASSPHRASE) == ALICE
    assert asked == [(3, 64 * 1024 * 1024)] * 2


def test_two_files_of_one_key_share_nothing(saved: Path) -> None:
    other = saved.with_name("other.pem")
    save_key(other, ALICE, PASSPHRASE)
    first, second = (base64.b64decode(f.read_bytes().splitlines()[2]) for f in (saved, other))
    assert first[9:25] != second[9:25]
    assert first[25:49] != second[25:49]


def test_the_older_format_is_still_read(path: Path) -> None:
    key = pem(Ed25519PrivateKey.from_private_bytes(ALICE.seed))
    put(path, b"Address: 0x" + ALICE.address.hex().encode() + b"\n" + key)
    assert load_key(path, PASSPHRASE) == ALICE
    assert "wrong passphrase" in refused(path, "another")


def test_a_file_that_asks_for_all_memory_is_refused_before_it_gets_any(saved: Path) -> None:
    lines = saved.read_bytes().splitlines(keepends=True)
    sealed = bytearray(base64.b64decode(lines[2]))
    for place, value in ((1, b"\xff" * 4), (5, b"\xff" * 4), (1, bytes(4)), (5, bytes(4)), (0, b"\x02")):
        changed = bytes(sealed[:place]) + value + bytes(sealed[place + len(value) :])
        saved.write_bytes(lines[0] + lines[1] + base64.b64encode(changed) + b"\n" + lines[3])
        assert "damaged" in refused(saved)


def test_every_bit_is_authenticated(saved: Path) -> None:
    content = saved.read_bytes()
    for place in range(len(content)):
        saved.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        refused(saved)
    other = dev_keypair("bob").address.hex().encode()
    saved.write_bytes(b"Address: 0x" + other + content[content.index(b"\n") :])
    refused(saved)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_the_file_is_its_owners_alone_whatever_the_umask(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        save_key(path, ALICE, PASSPHRASE)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_an_existing_key_is_never_replaced(saved: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises(KeyFileError, match="exists already"):
        save_key(saved, dev_keypair("bob"), PASSPHRASE)
    assert saved.read_bytes() == before
    assert [entry.name for entry in saved.parent.iterdir()] == [saved.name]


def test_a_dangling_link_is_not_followed_when_writing(path: Path) -> None:
    elsewhere = path.with_name("elsewhere")
    path.symlink_to(elsewhere)
    with pytest.raises(KeyFileError, match="exists already"):
        save_key(path, ALICE, PASSPHRASE)
    assert not elsewhere.exists()


def test_a_crash_while_writing_leaves_no_key_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(KeyFileError, match="No space left"):
            save_key(path, ALICE, PASSPHRASE)
    assert list(path.parent.iterdir()) == []
    save_key(path, ALICE, PASSPHRASE)


def test_a_missing_directory_is_named(path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"cannot be written.*directory"):
        save_key(path / "no" / "where", ALICE, PASSPHRASE)


@pytest.mark.parametrize("passphrase", ["", None, b"bytes", 0])
def test_an_empty_passphrase_is_refused(path: Path, saved: Path, passphrase: Any) -> None:
    assert "passphrase is empty" in refused(saved, passphrase)
    other = path.with_name("other.pem")
    with pytest.raises(KeyFileError, match="passphrase is empty"):
        save_key(other, ALICE, passphrase)
    assert not other.exists()


@pytest.mark.parametrize(
    ("passphrase", "problem"), [("a" * 1024, "longer than 1023"), ("\ud800", "not valid text")]
)
def test_an_unusable_passphrase_is_refused(path: Path, passphrase: str, problem: str) -> None:
    with pytest.raises(KeyFileError, match=problem):
        save_key(path, ALICE, passphrase)
    assert not path.exists()


@pytest.mark.parametrize("passphrase", ["wrong", PASSPHRASE + " ", PASSPHRASE[:-1]])
def test_a_wrong_passphrase_is_refused(saved: Path, passphrase: str) -> None:
    assert "wrong passphrase" in refused(saved, passphrase)


def test_a_missing_file_is_refused(path: Path) -> None:
    assert "does not exist; create the key" in refused(path)


def test_a_line_feed_in_the_path_stays_within_the_line(tmp_path: Path) -> None:
    refused(tmp_path / "two\nlines")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o601, 0o700, 0o644, 0o777])
def test_wide_permissions_are_refused(saved: Path, mode: int) -> None:
    saved.chmod(mode)
    assert f"permissions {mode:04o} are wider than 0600; chmod 600" in refused(saved)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_narrow_permissions_are_fine(saved: Path, mode: int) -> None:
    saved.chmod(mode)
    assert load_key(saved, PASSPHRASE) == ALICE


def test_wide_permissions_behind_a_link_are_refused(saved: Path) -> None:
    link = saved.with_name("link.pem")
    link.symlink_to(saved)
    assert load_key(link, PASSPHRASE) == ALICE
    saved.chmod(0o644)
    assert "wider than 0600" in refused(link)


@pytest.mark.parametrize("key", [X25519PrivateKey.generate(), generate_private_key(SECP256R1())])
def test_a_key_that_is_not_ed25519_is_refused(path: Path, key: Any) -> None:
    assert "not Ed25519" in refused(put(path, pem(key)))


def test_an_unencrypted_key_is_refused(path: Path) -> None:
    put(path, pem(Ed25519PrivateKey.from_private_bytes(ALICE.seed), NoEncryption()))
    assert "not an encrypted private key" in refused(path)


@pytest.mark.parametrize("data", [b"", b"\0", b"hello", b"-----BEGIN CERTIFICATE-----\n", ALICE.seed])
def test_a_file_that_is_no_key_is_refused(path: Path, data: bytes) -> None:
    assert "not an encrypted private key" in refused(put(path, data))


def test_a_large_file_is_refused_unread(path: Path) -> None:
    put(path, b"")
    os.truncate(path, 10**10)
    assert "too large" in refused(path)


def test_a_directory_and_a_fifo_are_refused_without_waiting(tmp_path: Path) -> None:
    assert "Is a directory" in refused(tmp_path)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    assert "not a regular file" in refused(fifo)


def test_a_bit_that_flips_in_the_older_ciphertext_yields_no_other_key(path: Path) -> None:
    """PKCS#8 encrypts in CBC, without authentication: some flips decrypt to another key."""
    address, body = (
        b"Address: 0x" + ALICE.address.hex().encode(),
        pem(Ed25519PrivateKey.from_private_bytes(ALICE.seed)),
    )
    saved = put(path, address + b"\n" + body)
    lines = body.splitlines()
    der = base64.b64decode(b"".join(lines[1:-1]))
    silent = 0
    for position in range(len(der) - 48, len(der)):
        flipped = bytearray(der)
        flipped[position] ^= 1
        damaged = b"\n".join([lines[0], base64.b64encode(flipped), lines[-1], b""])
        with contextlib.suppress(ValueError, UnsupportedAlgorithm):
            silent += bool(load_pem_private_key(damaged, PASSPHRASE.encode()))
        saved.write_bytes(address + b"\n" + damaged)
        refused(saved)
    assert silent > 0  # the library alone would not have noticed


@pytest.mark.parametrize("line", [b"", b"Address: 0x" + b"00" * 32 + b"\n", b"x\n"])
def test_a_key_without_its_own_address_line_is_refused(path: Path, line: bytes) -> None:
    key = pem(Ed25519PrivateKey.from_private_bytes(ALICE.seed))
    assert "damaged" in refused(put(path, line + key))


@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_refused_or_still_the_same_key(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "alice.pem"
    save_key(path, ALICE, PASSPHRASE)
    content = bytearray(path.read_bytes())
    cut = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[cut:]
    else:
        content[cut] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        assert load_key(path, PASSPHRASE) == ALICE
    except KeyFileError as error:
        message = str(error)
    else:
        return
    assert "\n" not in message
