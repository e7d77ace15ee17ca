"""The store's SSH keys: generated once, never part of an image's disk."""

from __future__ import annotations

import contextlib
import shutil
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization as ser
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key

from .cpio import Cpio

FILES = ("client", "client.pub", "host", "host.pub")


@dataclass(frozen=True)
class Keys:
    """The files of two key pairs: one for clients, one for all images' SSH servers.

    The client's key is RSA because an RSA signature is the cheapest to verify: dropbear needs 9 ms
    of a guest's CPU for a login, and 15 ms with an ed25519 key.
    """

    folder: Path

    @property
    def client(self) -> Path:
        """The client's private key in OpenSSH's format, mode 0600."""
        return self.folder / "client"

    @property
    def client_public(self) -> str:
        """One line: "ssh-rsa AAAA... pytest-hypervisor"."""
        return (self.folder / "client.pub").read_text().strip()

    @property
    def host_public(self) -> str:
        """One line: "ssh-ed25519 AAAA..."."""
        return (self.folder / "host.pub").read_text().strip()

    @property
    def public_lines(self) -> str:
        """Both public keys, to compare with those in an image."""
        return self.client_public + self.host_public

    def identity_archive(self) -> bytes:
        """The cpio archive that adds the keys to an initramfs."""
        cpio = Cpio()
        cpio.add_directory("identity", 0o700)
        cpio.add_file("identity/authorized_keys", f"{self.client_public}\n".encode(), 0o600)
        private = (self.folder / "host").read_bytes()
        cpio.add_file("identity/ssh_host_ed25519_key", private, 0o600)
        cpio.add_file("identity/dropbear_key", dropbear_key(private), 0o600)
        return bytes(cpio)


def ensure_keys(folder: Path) -> Keys:
    """The keys in `folder`, generated if a file is missing.

    Several processes may do this at once: one of them installs its keys, all return the same.
    """
    if not all((folder / name).is_file() for name in FILES):
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".keys-", dir=folder.parent))
        try:
            _write_pair(scratch / "client", generate_private_key(65537, 2048))
            _write_pair(scratch / "host", Ed25519PrivateKey.generate())
            if folder.is_dir():  # a file is missing: the remaining ones are useless
                folder.rename(scratch / "broken")
            with contextlib.suppress(OSError):  # another process was first: use its keys
                _install(scratch, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return Keys(folder)


def _install(scratch: Path, folder: Path) -> None:
    ready = scratch / "keys"
    ready.mkdir(0o700)
    for name in FILES:
        (scratch / name).rename(ready / name)
    ready.rename(folder)


def _write_pair(path: Path, key: RSAPrivateKey | Ed25519PrivateKey) -> None:
    private = key.private_bytes(ser.Encoding.PEM, ser.PrivateFormat.OpenSSH, ser.NoEncryption())
    public = key.public_key().public_bytes(ser.Encoding.OpenSSH, ser.PublicFormat.OpenSSH)
    path.touch(0o600, exist_ok=False)  # private before it has contents
    path.write_bytes(private)
    comment = " pytest-hypervisor" if path.name == "client" else ""
    path.with_suffix(".pub").write_text(f"{public.decode()}{comment}\n")


def dropbear_key(openssh: bytes) -> bytes:
    """An OpenSSH ed25519 private key in dropbear's format: type, then seed and public key."""
    key = ser.load_ssh_private_key(openssh, password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise TypeError("not an ed25519 key")
    raw = (ser.Encoding.Raw, ser.PrivateFormat.Raw, ser.NoEncryption())
    pair = key.private_bytes(*raw) + key.public_key().public_bytes(
        ser.Encoding.Raw, ser.PublicFormat.Raw
    )
    kind = b"ssh-ed25519"
    return struct.pack(">I", len(kind)) + kind + struct.pack(">I", len(pair)) + pair
