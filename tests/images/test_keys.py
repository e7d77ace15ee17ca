"""The store's keys: private, generated once, in the formats of both SSH servers."""

from __future__ import annotations

import struct
from pathlib import Path

import paramiko
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from images import keys


def test_keys_are_generated_once_and_private(tmp_path: Path) -> None:
    first = keys.ensure_keys(tmp_path / "keys")
    private = first.client.read_bytes()
    assert keys.ensure_keys(tmp_path / "keys").client.read_bytes() == private
    assert first.client.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "keys" / "host").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["keys"]


def test_paramiko_loads_the_client_key(tmp_path: Path) -> None:
    store_keys = keys.ensure_keys(tmp_path / "keys")
    loaded = paramiko.RSAKey.from_private_key_file(str(store_keys.client))
    assert store_keys.client_public.split()[:2] == ["ssh-rsa", loaded.get_base64()]
    assert store_keys.host_public.split()[0] == "ssh-ed25519"
    assert store_keys.host_public.split()[1] != store_keys.client_public.split()[1]


def test_dropbear_key_has_the_same_key_pair(tmp_path: Path) -> None:
    store_keys = keys.ensure_keys(tmp_path / "keys")
    openssh = (tmp_path / "keys" / "host").read_bytes()
    data = keys.dropbear_key(openssh)
    assert data[:15] == struct.pack(">I", 11) + b"ssh-ed25519"
    assert struct.unpack(">I", data[15:19]) == (64,)
    public = load_ssh_private_key(openssh, password=None).public_key()
    assert isinstance(public, Ed25519PublicKey)
    assert data[51:] == public.public_bytes_raw()
    assert len(store_keys.identity_archive()) % 512 == 0
    assert data in store_keys.identity_archive()
