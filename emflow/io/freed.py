"""Images that were removed once their reader was done with them, and need not be made again for it.

Denoised micrographs are large, and picking is done with each after one look. What it removes it notes in a hidden file
beside their table, with the settings that it looked under: the same reader does not need them again, another does.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from emflow.io.atomic import write_text

BESIDE = ("deviations", "samples")
"""Folders beside that of the denoised images, of what samplers write with each."""


def beside(image: Path) -> list[Path]:
    """Where what a sampler writes with a denoised image lies, in the order of ``BESIDE``."""
    return [image.parent.parent / folder / image.name for folder in BESIDE]


def _note(table: Path) -> Path:
    return table.with_name(f".{table.stem}.freed")


def freed(table: Path, reader: str) -> set[str]:
    """Ids whose images this reader has removed; none for another reader.

    Parameters
    ----------
    table
        The STAR table that lists the images.
    reader
        Digest of the settings that the images are read under; an empty one has removed nothing.
    """
    try:
        content = json.loads(_note(table).read_text(encoding="utf-8"))
        return set(content["ids"]) if reader and content["reader"] == reader else set()
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def free_images(table: Path, images: Mapping[str, Path], reader: str) -> None:
    """Remove images by their ids, with what lies beside each; noted first, so that a kill in between loses none unnoted.

    Raises
    ------
    WriteError
        The disk is full or the folder cannot be written.
    """
    ids = sorted(freed(table, reader) | set(images))
    write_text(_note(table), json.dumps({"reader": reader, "ids": ids}) + "\n")
    for image in images.values():
        for path in (image, *beside(image)):
            with contextlib.suppress(OSError):
                path.unlink()


def want_again(table: Path) -> None:
    """Forget what was removed: the images will be made again."""
    _note(table).unlink(missing_ok=True)
