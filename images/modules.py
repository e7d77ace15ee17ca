"""Kernel modules: their dependencies and load order."""

from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Iterable, Mapping

from harness.errors import ImageError


def read_kernel_package(archive: bytes) -> tuple[str, bytes, dict[str, bytes]]:
    """Release, bzImage and modules by name, from a kernel package's file system tar.

    Raises:
        ImageError: the package has no kernel.
    """
    modules: dict[str, bytes] = {}
    image = release = None
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
        for info in tar:
            if not info.isreg():
                continue
            is_module = info.name.endswith(".ko")
            is_image = info.name.startswith("./boot/vmlinuz-")
            if not (is_module or is_image):
                continue
            stream = tar.extractfile(info)
            assert stream is not None  # noqa: S101 - a regular file has contents
            base = info.name.rpartition("/")[2]
            if is_module:
                modules[module_name(base.removesuffix(".ko"))] = stream.read()
            else:
                image, release = stream.read(), base.removeprefix("vmlinuz-")
    if image is None or release is None:
        raise ImageError(
            "the kernel package has no boot/vmlinuz-*",
            hint="download it again: python -m images clean",
            stage="image",
        )
    return release, image, modules


def module_name(name: str) -> str:
    """The kernel treats - and _ in a module's name as equal; this form has _ only."""
    return name.replace("-", "_")


def load_order(names: Iterable[str], modules: Mapping[str, bytes]) -> list[str]:
    """The modules `names` and their dependencies, each after its own dependencies.

    Raises:
        ImageError: a module is not in the package.
    """
    order: list[str] = []

    def visit(name: str, required_by: str) -> None:
        if name in order:
            return
        if name not in modules:
            raise ImageError(
                f"the kernel has no module {name} (for {required_by})",
                hint="remove the module from images/*/recipe.toml, or use another kernel package",
                stage="image",
            )
        for dependency in dependencies(modules[name]):
            visit(dependency, name)
        order.append(name)

    for name in names:
        visit(module_name(name), "the recipe")
    return order


def dependencies(module: bytes) -> list[str]:
    """The module names in the `depends=` field of a module's .modinfo."""
    for entry in _section(module, b".modinfo").split(b"\0"):
        key, _, value = entry.partition(b"=")
        if key == b"depends":
            return [module_name(name) for name in value.decode().split(",") if name]
    return []


def _section(elf: bytes, name: bytes) -> bytes:
    """Contents of an ELF64 section (System V ABI, chapter 4); b"" if it is absent."""
    (table,) = struct.unpack_from("<Q", elf, 40)
    size, count, names_index = struct.unpack_from("<HHH", elf, 58)

    def header(index: int) -> tuple[int, int, int]:
        base = table + index * size
        offset, length = struct.unpack_from("<QQ", elf, base + 24)
        return struct.unpack_from("<I", elf, base)[0], offset, length

    _, names, _ = header(names_index)
    for index in range(count):
        label, offset, length = header(index)
        if elf.startswith(name + b"\0", names + label):
            return elf[offset : offset + length]
    return b""
