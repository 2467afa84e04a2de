"""What SLURM says of itself: partitions with their limits and GPUs, and the user's account."""

from __future__ import annotations

import getpass
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from emflow.io.atomic import write_text
from emflow.project.generate import as_yaml, comment
from emflow.project.site import Partition, Site
from emflow.step import EmflowError

_SHORT_HOURS = 4.0
"""Partitions with a shorter limit are for trying things out: named, not used."""


@dataclass(frozen=True)
class Guess:
    """A site as SLURM describes it, and what it does not say for sure."""

    site: Site
    unused: dict[str, Partition] = field(default_factory=dict)
    """Further partitions: not the default one, without GPUs, or short."""
    gpu_types: tuple[str, ...] = ()
    accounts: tuple[str, ...] = ()


def guess_site() -> Guess:
    """Ask SLURM for partitions, limits, GPUs and the user's accounts.

    Used are the default partition, and those with GPUs; not the hidden ones.

    Raises
    ------
    EmflowError
        If there is no SLURM here, or it does not answer.
    """
    rows = [line.split("|") for line in _ask("sinfo", "--noheader", "--exact", "--format=%P|%l|%c|%m|%G")]
    limits = _limits()
    found: dict[str, Partition] = {}
    types: list[str] = []
    default = next((row[0][:-1] for row in rows if row[0].endswith("*")), None)
    for name, time, cores, memory, gres in rows:
        name = name.removesuffix("*")
        gpus = re.findall(r"(?:^|,)gpu(?::([^:,]+))?:(\d+)", gres)
        types += [kind for kind, _ in gpus if kind and kind not in types]
        own = limits.get(name, {})
        node = Partition(
            max_hours=_hours(time),
            max_memory_gb=min(_number(memory), _number(own.get("MaxMemPerNode"), float("inf"))) / 1000,
            max_threads=int(min(_number(cores), _number(own.get("MaxCPUsPerNode"), float("inf")))),
            gpus=max((int(count) for _, count in gpus), default=0),
        )
        rank = (node.gpus > 0, node.max_memory_gb or 0.0)
        best = found.get(name)
        if best is None or rank > (best.gpus > 0, best.max_memory_gb or 0.0):
            found[name] = node
    if not found:
        raise EmflowError("sinfo names no partition: ask whether you may use this cluster.")
    default = default or next((name for name, part in found.items() if not part.gpus), next(iter(found)))
    used = {default: found[default]} | {
        name: part
        for name, part in found.items()
        if part.gpus and (part.max_hours is None or part.max_hours >= _SHORT_HOURS)
    }
    account, accounts = _accounts()
    unused = {name: part for name, part in found.items() if name not in used}
    return Guess(Site(account=account, partitions=used), unused, tuple(types), accounts)


def status_command() -> str:
    """Return the command to ask after jobs with: sacct, or squeue where the site keeps no accounts of jobs."""
    try:
        _ask("sacct", "--noheader", "--allocations", "--starttime=now")
    except EmflowError:
        return "squeue"
    return "sacct"


def partition_names() -> list[str]:
    """Return the partitions of this cluster, hidden ones too.

    Raises
    ------
    EmflowError
        If there is no SLURM here, or it does not answer.
    """
    return list(dict.fromkeys(_ask("sinfo", "--all", "--noheader", "--format=%R")))


def write_site(path: Path) -> str:
    """Write a commented site file from what SLURM says; return what was guessed, and what to do next.

    Raises
    ------
    EmflowError
        If SLURM does not answer.
    """
    guess = guess_site()
    write_text(path, _text(guess))
    return (
        f"{path}: guessed from SLURM: {in_words(guess.site)}.\n"
        "Look through it, then run on the cluster: snakemake --profile slurm --configfile FILE"
    )


def in_words(site: Site) -> str:
    """Say which partitions a site uses, with their limits, and the account."""
    parts = [f"{name} ({_describe(part)})" for name, part in site.partitions.items()]
    return f"partitions {', '.join(parts)}; account {site.account or 'not known'}"


def _describe(part: Partition) -> str:
    words = [
        f"{part.max_hours:g} h" if part.max_hours else "no time limit",
        f"{part.max_threads} cores" if part.max_threads else "",
        f"{part.max_memory_gb:g} GB" if part.max_memory_gb else "",
        f"{part.gpus} GPU{'s' if part.gpus > 1 else ''} a node" if part.gpus else "",
    ]
    return ", ".join(word for word in words if word)


def _text(guess: Guess) -> str:
    lines = [
        "# This cluster, for `snakemake --profile slurm`. Guessed from SLURM by `emflow init`; edit it freely.",
        "# Where it may stand, the first wins: ./site.yaml, ~/.config/emflow/site.yaml, /etc/emflow/site.yaml",
    ]
    for key, info in Site.model_fields.items():
        lines += ["", *comment(info.description or "", 0)]
        if key == "account" and len(guess.accounts) > 1:
            lines.append(f"# Yours: {', '.join(guess.accounts)}")
        if key != "partitions":
            value = getattr(guess.site, key)
            lines.append(f"# {key}:" if value is None else f"{key}: {_scalar(value)}")
    lines.append("partitions:")
    types = [kind for kind in guess.gpu_types if "-" not in kind]  # the executor takes no hyphens
    for number, (name, part) in enumerate(guess.site.partitions.items()):
        lines += _partition(name, part, explained=number == 0)
        if part.gpus and len(types) > 1:
            lines.append(f"    # gpu_type:  # one of {', '.join(types)}; left out, any")
    for name, part in guess.unused.items():
        lines += [f"  # {line[2:]}" for line in _partition(name, part, explained=False)]
    return "\n".join(lines) + "\n"


def _partition(name: str, part: Partition, explained: bool) -> list[str]:
    lines = [f"  {_scalar(name)}:"]
    for key, info in Partition.model_fields.items():
        value = getattr(part, key)
        if explained:
            lines += comment(info.description or "", 4)
        if value:
            lines.append(f"    {key}: {_scalar(value)}")
    return lines


def _scalar(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else as_yaml(value)


def _limits() -> Mapping[str, dict[str, str]]:
    """Settings of each partition that sinfo does not show."""
    found = {}
    for line in _ask("scontrol", "show", "partition", "--oneliner"):
        pairs = dict(word.split("=", 1) for word in line.split() if "=" in word)
        found[pairs.get("PartitionName", "")] = pairs
    return found


def _accounts() -> tuple[str | None, tuple[str, ...]]:
    """The user's default account, and all of them; none where the site does without accounting."""
    user = getpass.getuser()
    try:
        shown = _ask("sacctmgr", "--noheader", "--parsable2", "show", "user", user, "format=defaultaccount")
        every = _ask(
            "sacctmgr", "--noheader", "--parsable2", "show", "associations", f"user={user}", "format=account"
        )
    except EmflowError:
        return None, ()
    accounts = tuple(dict.fromkeys(every))
    return (shown[0] if shown and shown[0] else next(iter(accounts), None)), accounts


def _ask(*command: str) -> list[str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        raise EmflowError(
            f"no SLURM here (no command `{command[0]}`). Run on a node that may submit jobs, or use --profile "
            "profiles/local."
        ) from None
    except subprocess.TimeoutExpired:
        raise EmflowError(f"{command[0]} does not answer. Try again when SLURM answers.") from None
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["no message"]
        raise EmflowError(f"{command[0]} does not answer ({said[-1]}). Try again when SLURM answers.")
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def _number(text: str | None, otherwise: float = 0.0) -> float:
    """A number as SLURM writes it: ``48000``, ``128+``; ``UNLIMITED`` or nothing is ``otherwise``."""
    match = re.match(r"\d+", text or "")
    return float(match[0]) if match else otherwise


def _hours(text: str) -> float | None:
    """A time limit as SLURM writes it: ``1-12:00:00``, ``12:00:00``, ``30:00``, ``infinite``."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if match is None:
        return None
    days, *clock = (int(part or 0) for part in match.groups())
    if match[1] is None and match[4] is None:  # without days, two numbers are minutes and seconds
        clock = [0, *clock[:2]]
    return days * 24 + clock[0] + clock[1] / 60 + clock[2] / 3600
