"""Builds one image in a folder. Equal inputs give equal bytes."""

from __future__ import annotations

import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from harness.errors import ImageError

from . import modules as kernel_modules
from .bytecode import compile_standard_library
from .cpio import Cpio
from .database import add_database
from .image import FILES
from .kernel import read_vmlinux
from .packages import KERNEL, Apt, Deb, exclude_packages, find_kernel_package
from .recipe import FOLDER, Recipe, tool_sources
from .rootfs import RootTar, make_ext2
from .run import require_programs, run

Progress = Callable[[str], None]
CFLAGS = ("-O2", "-s", "-Wall", "-Wl,--build-id=none", "-fdebug-prefix-map=.=")


@dataclass(frozen=True)
class Contents:
    """What a build produced.

    Attributes:
        release: the kernel's `uname -r`.
        packages: version of each Debian package.
        stages: seconds of each stage of the build.
    """

    release: str
    packages: dict[str, str]
    stages: dict[str, float]


class Builder:
    """One build in `folder`; downloaded packages stay in `cache`/debs for the next build."""

    def __init__(self, recipe: Recipe, folder: Path, cache: Path, progress: Progress) -> None:
        self._recipe = recipe
        self._folder = folder
        self._cache = cache
        self._progress = progress
        self._stages: dict[str, float] = {}

    def build(self) -> Contents:
        """Build kernel, initramfs and disk. The store adds its keys to the initramfs later."""
        require_programs()
        with self._stage("packages"):
            debs, paths, kernel = self._packages()
        with self._stage("kernel"):
            release, modules = self._kernel(kernel)
        with self._stage("programs"):
            programs = self._programs()
        self._initramfs(modules, programs.pop("init"))
        with self._stage("files"):
            tar, root = self._tar(paths, programs)
        with self._stage("disk"):
            make_ext2(
                tar,
                self._folder / "disk",
                blocks=root.blocks + self._recipe.free_mib * 256,
                inodes=root.inodes + self._recipe.free_inodes,
            )
            tar.unlink()
        return Contents(release, {deb.name: deb.version for deb in debs}, self._stages)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self._stages[name] = round(time.monotonic() - start, 3)
        self._progress(f"{self._recipe.kind} image: {name} {self._stages[name]:.1f} s")

    def _packages(self) -> tuple[list[Deb], list[Path], Path]:
        apt = Apt(self._folder / "apt")
        debs = exclude_packages(apt.resolve(self._recipe.packages), self._recipe.drop)
        kernel = find_kernel_package(apt.resolve([KERNEL]))
        self._progress(f"{self._recipe.kind} image: fetching {len(debs) + 1} packages")
        # builds of both kinds share this folder
        with FileLock(self._cache / "debs.lock"):
            *paths, kernel_path = apt.fetch([*debs, kernel], self._cache / "debs")
        return [*debs, kernel], paths, kernel_path

    def _kernel(self, deb: Path) -> tuple[str, dict[str, bytes]]:
        archive = run(["dpkg-deb", "--fsys-tarfile", str(deb)])
        release, image, modules = kernel_modules.read_kernel_package(archive)
        bzimage = self._folder / "bzimage"
        bzimage.write_bytes(image)
        if "vmlinux" in FILES[self._recipe.kind]:
            (self._folder / "vmlinux").write_bytes(read_vmlinux(bzimage))
        return release, modules

    def _programs(self) -> dict[str, bytes]:
        """The compiled C programs by name."""
        static, preloaded = ("-static",), ("-shared", "-fPIC", "-nostdlib", "-fno-builtin")
        init = ("init.c", "boot.c", "host.c", "net.c", "ssh_servers.c", "vmm_requests.c")
        programs = {
            "init": self._compile(static, *init),
            "preload.so": self._compile(preloaded, "preload.c"),
        }
        for name, sources in tool_sources(self._recipe.kind).items():
            programs[name] = compile_tool(sources, self._folder / "program")
        return programs

    def _compile(self, flags: tuple[str, ...], *sources: str) -> bytes:
        return compile_c(flags, sources, self._folder / "program")

    def _initramfs(self, modules: dict[str, bytes], init: bytes) -> None:
        # a list leaves out the modules of the lists before it
        lists: dict[str, list[str]] = {}
        included: list[str] = []
        for file, recipe_names in (
            ("modules", self._recipe.modules),
            ("modules.pmem", self._recipe.pmem_modules),
            ("modules.late", self._recipe.late_modules),
        ):
            order = kernel_modules.load_order(recipe_names, modules)
            lists[file] = [name for name in order if name not in included]
            included += lists[file]
        cpio = Cpio()
        for name in ("dev", "proc", "sys", "newroot", "harness"):
            cpio.add_directory(name)
        cpio.add_character_device("dev/console", 5, 1)
        cpio.add_file("init", init, 0o755)
        cpio.add_file("harness/mode", self._recipe.kind.encode())
        cpio.add_file("harness/ip", self._recipe.ip.encode())
        for file, names in lists.items():
            cpio.add_file(f"harness/{file}", "".join(f"{name}\n" for name in names).encode())
        for name in included:
            cpio.add_file(f"harness/{name}.ko", modules[name])
        (self._folder / "initramfs").write_bytes(bytes(cpio))

    def _tar(self, debs: list[Path], programs: dict[str, bytes]) -> tuple[Path, RootTar]:
        path = self._folder / "disk.tar"
        recipe = self._recipe
        with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
            root = RootTar(tar, recipe.exclude)
            for file in recipe.files:
                root.add_file(file.path, file.data, file.mode)
            for link, target in sorted(recipe.links.items()):
                root.add_link(link, target)
            for name, data in sorted(programs.items()):
                folder = "/usr/lib/harness" if name.endswith(".so") else "/usr/local/bin"
                root.add_file(f"{folder}/{name}", data, 0o755)
            root.add_packages(debs)
            if recipe.precompile_python:
                for name, data in compile_standard_library(debs, self._folder / "python"):
                    root.add_file(name, data)
            for name in recipe.directories:
                root.add_directory(name)
        if recipe.database:
            with tarfile.open(path, "a", format=tarfile.GNU_FORMAT) as tar:
                root.tar = tar
                with self._stage("database"):
                    add_database(root, path, self._folder / "database")
        return path, root


def compile_tool(sources: Sequence[Path], output: Path) -> bytes:
    """Compile a static program of tool_sources(); see compile_c()."""
    paths = [f"../{source.relative_to(FOLDER)}" for source in sources]
    return compile_c(("-static",), (*paths, "-lm"), output)


def compile_c(flags: tuple[str, ...], sources: tuple[str, ...], output: Path) -> bytes:
    """Compile sources of images/guest. Equal sources and compilers give equal bytes.

    Raises:
        ImageError: gcc fails or is missing.
    """
    try:
        run(["gcc", *CFLAGS, *flags, "-o", str(output), *sources], cwd=FOLDER / "guest")
    except ImageError as error:
        raise ImageError(error.cause, hint="install gcc and libc6-dev", stage="image") from None
    data = output.read_bytes()
    output.unlink()
    return data
