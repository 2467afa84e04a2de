"""The list of commands, each imported only when it is run."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from typing import Any

from cyclopts import App
from cyclopts.config import Dict as DefaultsFrom

from emflow import __version__
from emflow.step import EmflowError

COMMANDS: dict[str, tuple[str, dict[str, str]]] = {
    "simulate": (
        "Make sessions with known truth, and score results against it.",
        {"session": "", "score": ""},
    ),
    "session": ("Find, check and select micrographs.", {"find": "", "check": "", "select": "", "join": ""}),
    "ctf": ("Estimate the contrast transfer function.", {"fit": ""}),
    "pick": ("Find particles in micrographs.", {"apply": "", "score": ""}),
    "extract": ("Cut out particles.", {"run": "", "recenter": "", "join": ""}),
    "reconstruct": ("Find poses and the map.", {"abinitio": "", "refine": ""}),
    "validate": ("Judge half maps.", {"maps": ""}),
}
"""Room → its help and its verbs; each verb is the function of that name in ``emflow.<room>.command``."""

PROJECT_COMMANDS = ("init", "plan", "unlock", "doctor", "report")
"""Commands of one word: functions in ``emflow.project.command``."""


def build_app() -> App:
    """Return the command-line application; no room is imported by it."""
    app = App(
        name="emflow",
        version=__version__,
        help="From micrographs to a validated ensemble of structures. "
        "Every verb works on plain files; `snakemake --profile profiles/local` runs the whole chain.",
    )
    for room, (about, verbs) in COMMANDS.items():
        group = App(name=room, help=about)
        for verb in verbs:
            group.command(f"emflow.{room}.command:{verb}", name=verb)
        app.command(group)
    for name in PROJECT_COMMANDS:
        app.command(f"emflow.project.command:{name}", name=name)
    return app


def take_settings(tokens: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Take ``--json TEXT`` and ``--config FILE`` out of the tokens; return the rest and the step's settings.

    ``--json`` holds exactly one step's settings (as the Snakefile gives them); ``--config`` names a whole
    configuration, of which the step's section and the sample's facts are used. Flags win over both.
    """
    rest, settings = [], {}
    iterator = iter(tokens)
    for token in iterator:
        name, _, value = token.partition("=")
        if name not in ("--json", "--config"):
            rest.append(token)
            continue
        value = value or next(iterator, "")
        if name == "--json":
            settings = json.loads(value)
            settings.pop("version", None)
        else:
            from emflow.config import load_settings

            step = ".".join(tokens[:2])
            whole = load_settings(value)
            if step not in whole.steps:
                raise EmflowError(f"--config: {step} has no section in a configuration.")
            settings = whole.section(step).model_dump(mode="json")
    return rest, {key: value for key, value in settings.items() if value is not None}


def main(tokens: Sequence[str] | None = None) -> None:
    """Run a command; exit with 0, with 2 for what the user can mend, with 1 for a fault of ours."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    app = build_app()
    try:
        rest, settings = take_settings(sys.argv[1:] if tokens is None else tokens)
        if settings:
            flags = {key.replace("_", "-"): value for key, value in settings.items()}
            app.config = [DefaultsFrom(flags, use_commands_as_keys=False, source="--json or --config")]
        app(rest, result_action="return_value", exit_on_error=False, print_error=True)
    except EmflowError as error:
        print(f"emflow: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except Exception as error:
        from cyclopts import CycloptsError

        if isinstance(error, CycloptsError):
            raise SystemExit(2) from None
        raise


if __name__ == "__main__":
    main()
