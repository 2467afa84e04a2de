"""The list of commands, each imported only when it is run."""

from __future__ import annotations

import errno
import importlib
import json
import keyword
import logging
import os
import re
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from cyclopts import App, CycloptsError
from cyclopts.config import Dict as DefaultsFrom

from emflow import __version__, leave
from emflow.step import EmflowError

COMMANDS: dict[str, tuple[str, dict[str, str]]] = {
    "simulate": (
        "Make sessions with known truth, and score results against it.",
        {
            "session": "Simulate micrographs of a specimen, with the truth beside them.",
            "particles": "Simulate a stack of particle images with known poses, CTF and states.",
            "volume": "Simulate a volume of tissue, and what an electron microscope measures of it.",
            "score": "Compare a project's results with the truth of its simulated session.",
        },
    ),
    "session": (
        "Find, check and select micrographs.",
        {
            "find": "List micrographs in append-only shards.",
            "check": "Read every micrograph; set bad ones aside; assign halves.",
            "select": "Join what is known of each micrograph into one quality table.",
            "join": "Pool the quality tables of all shards.",
        },
    ),
    "ctf": (
        "Estimate the contrast transfer function.",
        {
            "fit": "Fit defocus and astigmatism of each micrograph.",
            "import": "Take somebody's CTF, matched by micrograph name.",
        },
    ),
    "denoise": (
        "Denoise micrographs, for picking and viewing.",
        {
            "train": "Train a model on half sums, or on the micrographs alone.",
            "train-restorer": "Learn to sample a model's error, from simulated micrographs.",
            "apply": "Denoise each micrograph with the general model or your own.",
            "check": "Ask independent data what of the denoised micrographs they bear out.",
        },
    ),
    "pick": (
        "Find particles in micrographs.",
        {
            "apply": "Pick particles in each micrograph.",
            "import": "Take somebody's coordinates, matched by micrograph name.",
            "assess": "Say of each micrograph whether it is good, or why not.",
            "size": "Estimate the particle's diameter from the micrographs.",
            "filaments": "Find filaments, and places at equal distances along them.",
            "train": "Learn to pick from some labelled particles.",
            "consensus": "Join the picks of several pickers.",
            "export": "Write picks for RELION, EMAN, Topaz or a spreadsheet.",
            "score": "Compare picks with known positions: confusion matrix, precision, recall, curves.",
        },
    ),
    "extract": (
        "Cut out particles.",
        {
            "run": "Cut out and normalise the picked particles.",
            "recenter": "Cut out again, finer and centred on the refined origins.",
            "join": "Pool the particle tables of all shards.",
        },
    ),
    "classify": (
        "Sort particles into classes of like views; remove what is none.",
        {
            "run": "Sort particle images into classes, and average each.",
            "select": "Choose classes and particles, by score or by a person's labels.",
        },
    ),
    "reconstruct": (
        "Find poses and the map.",
        {
            "abinitio": "Find a first map from random starts.",
            "symmetry": "Find the point group of a map made without symmetry, and turn it into its frame.",
            "refine": "Refine poses and map in two independent halves.",
            "ctf": "Refine defocus, astigmatism and beam tilt at the poses found.",
            "sharpen": "Sharpen the mean of two half maps, as a whole and voxel by voxel.",
            "classes": "Sort particles into classes, in each half-set on its own.",
            "subtract": "Subtract from each image the projection of what lies outside a mask.",
            "expand": "Write each particle once for every operator of a point group.",
        },
    ),
    "heterogeneity": (
        "Find how the particles differ.",
        {
            "fit": "Fit a mean map and components, and a latent coordinate per particle, in two halves.",
            "analyze": "Find states in the latents; write their particles and volumes along the coordinates.",
            "check": "Ask whether coordinates and states are real: in both halves, beyond chance and poses.",
            "decode": "Decode volumes at given coordinates, each with its local confidence.",
            "traverse": "Find a path through dense particles; volumes along it, each particle's place on it.",
            "select": "Select particles by a condition, a state, nearness to a point, or density.",
        },
    ),
    "validate": (
        "Judge half maps.",
        {
            "maps": "FSC, resolution and angular coverage of two half maps.",
            "states": "Resolution of each state of a heterogeneity analysis, by its own half maps.",
            "local": "Local resolution of two half maps, or of one map, and the map filtered by it.",
            "particles": "Over-fitting, agreement of each image with the map, resolution against number.",
            "noise-control": "Replace the fine detail of every image by noise, to refine again as a control.",
            "noise-compare": "Compare a refinement with that of its noise control.",
        },
    ),
    "vem": (
        "Restore volumes of volume electron microscopy.",
        {
            "check": "Find slices that are missing, damaged, shifted or of other brightness.",
            "pretrain": "Learn from isotropic volumes to fill gaps of any factor: weights to start from.",
            "train": "Learn from a volume's own slices to fill the gaps between them.",
            "restore": "Fill the gaps between slices, with the error of each voxel.",
            "parts": "Divide a volume among jobs.",
            "begin": "Create the images that several jobs fill.",
            "fill": "Fill a part of the blocks of such images.",
            "finish": "Finish such images: coarser levels, figures, verdicts.",
            "score": "Compare a restored volume with the true one.",
            "train-membranes": "Learn from labelled slices where membranes are.",
            "segment": "Find membranes, and the segments that they divide.",
            "score-segments": "Compare segments with the true ones.",
            "train-sampler": "Learn to sample the texture that a restored volume lacks, and judge the samples.",
            "sample": "Fill the gaps with samples of what may be there, with the truth's texture.",
            "train-images": "Learn to denoise or super-resolve images, from a pair or from noisy images alone.",
            "denoise": "Denoise or super-resolve images, with the error of each pixel.",
        },
    ),
}
"""Room → its help and its verbs; each verb is the function of that name in ``emflow.<room>.command``
(with an underscore for a hyphen, and one behind a name that Python keeps for itself: ``import_``)."""

PARTS_OF = dict.fromkeys(("vem.begin", "vem.fill", "vem.finish"), "vem.restore")
"""Commands that do a part of a step, and take its settings."""

PROJECT_COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("emflow.project.command:init", "Write a commented configuration for a folder of micrographs."),
    "plan": (
        "emflow.project.command:plan",
        "Say in words what a run would do and why, and what it would cost.",
    ),
    "watch": (
        "emflow.project.watch.command:watch",
        "Follow an acquisition: process what comes, say how far behind, raise alarms.",
    ),
    "restart": ("emflow.project.command:restart", "Have a pooling stage begin anew at the next run."),
    "upgrade": ("emflow.project.command:upgrade", "Take the steps' newer versions, which reruns them."),
    "branch": (
        "emflow.project.command_runs:branch",
        "Make a run under other settings beside a project, sharing what is equal.",
    ),
    "diff": (
        "emflow.project.command_runs:diff",
        "Compare two projects: settings, figures, verdicts, maps.",
    ),
    "clean": (
        "emflow.project.command_runs:clean",
        "List what of a project can be made again, and free it.",
    ),
    "unlock": ("emflow.project.command:unlock", "Remove the lock of a killed run, if nothing of it is left."),
    "record": ("emflow.project.command_record:record", "Write a run's record as an RO-Crate."),
    "reproduce": (
        "emflow.project.command_record:reproduce",
        "Repeat a run from its record, and compare every result.",
    ),
    "doctor": ("emflow.project.command:doctor", "Check this machine: device, scheduler, disk, libraries."),
    "report": ("emflow.report.command:report", "Write the HTML page and summary.json of a project."),
}
"""Commands of one word: where they are, and their help."""


def build_app(chosen: Sequence[str] = ()) -> App:
    """Return the command-line application; no room is imported by it.

    Listings show the help lines above; the chosen command shows its own docstring, so it is left without.
    """
    app = App(
        name="emflow",
        version=__version__,
        help="From micrographs to a validated ensemble of structures. "
        "Every verb works on plain files; `snakemake --profile profiles/local` runs the whole chain.",
    )
    for room, (about, verbs) in COMMANDS.items():
        group = App(name=room, help=about)
        for verb, line in verbs.items():
            function = f"{verb}_" if keyword.iskeyword(verb) else verb.replace("-", "_")
            listed = {} if list(chosen[:2]) == [room, verb] else {"help": line}
            group.command(f"emflow.{room}.command:{function}", name=verb, **listed)
        app.command(group)
    for name, (where, line) in PROJECT_COMMANDS.items():
        app.command(where, name=name, **({} if list(chosen[:1]) == [name] else {"help": line}))
    return app


def take_settings(tokens: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Take ``--json TEXT`` and ``--config FILE`` out of the tokens; return the rest and the settings.

    ``--json`` holds exactly one step's settings (as the Snakefile gives them, with the step version by which the
    project counts); ``--config`` names a whole
    configuration, of which the step's section, the sample's facts and the execution are used.
    ``EMFLOW_EXECUTION`` (JSON; set by the Snakefile) says how to run: it is no part of the command, so that
    it triggers no rerun. Flags win over all three.
    """
    rest: list[str] = []
    settings: dict[str, Any] = json.loads(os.environ.get("EMFLOW_EXECUTION", "{}"))
    iterator = iter(tokens)
    for token in iterator:
        name, _, value = token.partition("=")
        if name not in ("--json", "--config"):
            rest.append(token)
            continue
        value = value or next(iterator, "")
        if name == "--json":
            settings |= _from_json(value, tokens[:2])
        else:
            settings |= _from_configuration(value, step_of(tokens))
    return rest, settings


def step_of(words: Sequence[str]) -> str:
    """Section of a configuration that a command's settings stand in."""
    step = ".".join(words[:2]).replace("-", "_")
    return PARTS_OF.get(step, step)


def _from_json(text: str, words: Sequence[str]) -> dict[str, Any]:
    try:
        settings = json.loads(text)
    except json.JSONDecodeError as error:
        raise EmflowError(f"--json: not JSON ({error}); expected one step's settings.") from None
    if not isinstance(settings, dict):
        raise EmflowError("--json: expected one step's settings, as an object.")
    settings.pop("restart", None)
    version = settings.pop("version", None)
    if version is not None and words[0] in COMMANDS:
        room, verb = step_of(words).split(".")
        model = importlib.import_module(f"emflow.{room}.config").STEPS[verb]
        # for this process, which is one job: what an older version made of this shard is still good
        model.version = int(version)
    return settings


def _from_configuration(path: str, step: str) -> dict[str, Any]:
    from emflow.config import load_settings

    whole = load_settings(path)
    if step not in whole.steps:
        raise EmflowError(f"--config: {step} has no section in a configuration.")
    return whole.execution.model_dump(mode="json") | whole.section(step).model_dump(mode="json")


def main(tokens: Sequence[str] | None = None) -> None:
    """Run a command; exit with 0, with 2 for what the user can mend, with 1 for a fault of ours."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    # threads that wait must not spin: on a busy machine that took ten times the CPU time. Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = list(sys.argv[1:] if tokens is None else tokens)
    try:
        if "EMFLOW_PARENT" in os.environ:
            from emflow.project.parent import die_with

            die_with(int(os.environ["EMFLOW_PARENT"]))
        app = build_app(words)
        if words[:1] and words[0] in COMMANDS:
            words, settings = take_settings(words)
            flags = {key.replace("_", "-"): value for key, value in settings.items()}
            app.config = [DefaultsFrom(flags, use_commands_as_keys=False, source="--json or --config")]
        with leave.on_sigterm() if words[:1] and words[0] in (*COMMANDS, "report") else nullcontext():
            app(words, result_action="return_value", exit_on_error=False, print_error=False)
    except (EmflowError, CycloptsError) as error:
        print(f"emflow: {_plain(str(error))}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (MemoryError, OSError, RuntimeError) as error:
        if not (advice := _users_to_mend(error)):
            raise
        print(f"emflow: {error or 'out of memory'}. {advice}", file=sys.stderr)
        raise SystemExit(2) from None


def _users_to_mend(error: Exception) -> str:
    """What to do about a fault of the machine: no memory, no room on the disk, a file system that went away."""
    signs = ("allocate memory", "out of memory", "can't start new thread", "could not create a primitive")
    full = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    if full or any(sign in str(error) for sign in signs):
        return "The step needs more memory: give it more (mem_mb, execution.memory_gb), then run it again."
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Free space there, or ask for a larger quota, then run the step again."
    if isinstance(error, OSError) and error.errno in (errno.ESTALE, errno.EIO, errno.EROFS, errno.ENOTCONN):
        return "The file system is in trouble: run the step again when it is back."
    return ""


def _plain(message: str) -> str:
    """Return a message of pydantic's as ``name: what is wrong``, any other as it is."""
    found = re.findall(r"^(\w+)\n +(.*?)(?: \[type=.*\])?$", message, flags=re.MULTILINE)
    if "validation error" not in message or not found:
        return message
    return "; ".join(f"--{name.replace('_', '-')}: {text}" for name, text in found)


if __name__ == "__main__":
    main()
