"""python -m images: builds, lists, verifies and cleans the image store."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from harness.errors import ImageError

from . import store
from .image import FILES, verify_folder


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit status: 1 after an ImageError, else 0."""
    parser = argparse.ArgumentParser(prog="images", description="Manage the image store")
    parser.add_argument("--cache", type=Path, help="use this store instead of the default")
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build missing and broken images")
    build.add_argument("kind", nargs="?", choices=[*FILES], help="guest and host if none is named")
    commands.add_parser("list", help="list all images; * marks the current ones")
    commands.add_parser("verify", help="compute the checksums of the current images")
    clean = commands.add_parser("clean", help="remove superseded images and downloads")
    clean.add_argument("--all", action="store_true", help="remove the current images, too")
    options = parser.parse_args(arguments)
    try:
        return _run(options)
    except ImageError as error:
        print(error, file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    cache = options.cache
    if options.command == "build":
        for kind, get in (
            ("guest", store.guest_image),
            ("host", store.host_image),
            ("workload", store.workload_image),
        ):
            if kind in ([options.kind] if options.kind else ["guest", "host"]):
                start = time.monotonic()
                image = get(cache=cache)
                seconds = time.monotonic() - start
                print(f"{kind} image: {image.folder} ready in {seconds:.2f} s")
    elif options.command == "list":
        for folder, manifest, current in store.list_images(cache):
            size = sum(facts["size"] for facts in manifest.get("files", {}).values()) >> 20
            release = manifest.get("release", "broken")
            print(f"{'*' if current else ' '} {folder} {release} {size} MiB")
    elif options.command == "verify":
        for folder, _, current in store.list_images(cache):
            if current:
                verify_folder(folder)
                print(f"{folder}: all checksums match")
    else:
        for path in store.clean(cache, everything=options.all):
            print(f"removed {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
