"""Which micrograph a process works on: one that kills it is set aside in the end, and not its shard with it.

A decoder may crash, hang or take all memory, and then nothing is left to say on which image. So a small file
beside the shard's table names the image while it is worked on. If it is still there when the next process
begins, the one before died on that image, and the image has one more death in the list of deaths.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
from collections.abc import Iterator
from pathlib import Path

from emflow import leave
from emflow.io.atomic import write_errors, write_text
from emflow.step import EmflowError

log = logging.getLogger("emflow")

MOST = 2
"""Deaths of the process after which an image is set aside."""


class Attempts:
    """Attempts at the images of one shard.

    Parameters
    ----------
    journal
        The shard's journal (``.shard_00001.journal``): the list of deaths (``.shard_00001.deaths``) and the name
        of the image at work (``.shard_00001.working``) lie beside it. Remove the list to have all tried again.
    limit_minutes
        How long the work on one image may take before it counts as hung, and the process ends.
    """

    def __init__(self, journal: Path, limit_minutes: float) -> None:
        self._limit_s = 60 * limit_minutes
        self._deaths = journal.with_suffix(".deaths")
        self._working = journal.with_suffix(".working")
        self._entries = _entries(self._deaths)
        for entry in _entries(self._working):
            log.warning(
                "The process before this one died, or was killed, while it worked on %s", entry["name"]
            )
            self._count(entry, "the process died")
        self._working.unlink(missing_ok=True)

    def deaths(self, identity: str, key: str) -> int:
        """How often the process died while it worked on an image under this key."""
        return len(self._causes(identity, key))

    def given_up(self, identity: str, key: str) -> str | None:
        """Why an image is not tried any more under this key; None for one that is."""
        causes = self._causes(identity, key)
        if len(causes) < MOST:
            return None
        return f"{causes[-1]} {'twice' if len(causes) == 2 else f'{len(causes)} times'} while working on it"

    @contextlib.contextmanager
    def at(self, name: str, identity: str, key: str) -> Iterator[None]:
        """Work on an image inside. It has a death less where the work ends, well or by an error that says why.

        Raises
        ------
        WriteError
            If the disk is full or the folder cannot be written.
        """
        entry = {"id": identity, "key": key, "name": name}
        leave.half_written.add(self._working)  # told to stop: no death of the image
        try:
            with write_errors(self._working):
                self._working.parent.mkdir(parents=True, exist_ok=True)
                self._working.write_text(json.dumps(entry) + "\n", encoding="utf-8")
            # a thread of its own in C: it ends the process also where the image is stuck in a library
            faulthandler.dump_traceback_later(self._limit_s, exit=True, file=2)
            yield
        except (EmflowError, OSError):
            raise
        except Exception as error:
            if "CUDA" not in str(error):  # a broken GPU is no fault of the image
                self._count(entry, f"the step failed ({type(error).__name__}: {error})"[:300])
            raise
        else:
            self._forget(identity, key)
        finally:
            faulthandler.cancel_dump_traceback_later()
            self._working.unlink(missing_ok=True)
            leave.half_written.discard(self._working)

    def _causes(self, identity: str, key: str) -> list[str]:
        return [entry["cause"] for entry in self._entries if (entry["id"], entry["key"]) == (identity, key)]

    def _count(self, entry: dict[str, str], cause: str) -> None:
        self._entries.append({**entry, "cause": cause})
        self._store()

    def _forget(self, identity: str, key: str) -> None:
        """The image was worked on to its end: its deaths were others' fault."""
        kept = [e for e in self._entries if (e["id"], e["key"]) != (identity, key)]
        if len(kept) < len(self._entries):
            self._entries = kept
            self._store()

    def _store(self) -> None:
        if self._entries:
            write_text(self._deaths, "".join(json.dumps(entry) + "\n" for entry in self._entries))
        else:
            self._deaths.unlink(missing_ok=True)


def _entries(path: Path) -> list[dict[str, str]]:
    """Lines of a file; what a kill cut short is left out."""
    found: list[dict[str, str]] = []
    if not path.is_file():
        return found
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict) and {"id", "key", "name"} <= entry.keys():
                found.append({"cause": "the process died", **entry})
    return found
