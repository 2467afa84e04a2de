"""How much has come since each stage that pools all particles was made, and whether to begin anew is worth it."""

from __future__ import annotations

from dataclasses import dataclass

from emflow.report.gather import Results
from emflow.report.summary import Numbers
from emflow.report.words import plural

WORTH_ANEW = {"frozen": 1 / 2, "refresh": 1 / 3}
"""Share of new particles above which to begin anew is worth it: since a frozen stage was made, or since a
refreshed one last began from nothing."""

_STAGES = {
    "classify": ("Classes", "classify"),
    "abinitio": ("First map", "reconstruct.abinitio"),
    "refine": ("Refinement", "reconstruct.refine"),
    "heterogeneity": ("Heterogeneity", "heterogeneity"),
}
"""Key of the configuration's section ``increments`` → its name, and the section of its figures."""


@dataclass(frozen=True)
class Increment:
    """One stage, then and now."""

    key: str
    name: str
    choice: str
    """frozen or refresh."""
    made_particles: int
    """When it was made."""
    anew_particles: int
    """When it last began from nothing."""
    now: int

    @property
    def share_new(self) -> float:
        """Share of today's particles that came since it was made, or began from nothing."""
        then = self.made_particles if self.choice == "frozen" else self.anew_particles
        return max(0.0, 1 - then / self.now) if self.now else 0.0

    @property
    def worth_anew(self) -> bool:
        """Whether to begin anew is worth it."""
        return self.share_new > WORTH_ANEW[self.choice]


def increments(results: Results, summary: dict[str, Numbers]) -> list[Increment]:
    """Stages that have run, in the order of the chain."""
    chosen = results.settings.get("increments")
    extract = summary.get("extract", {})
    now = extract.get("recentered_particles") or extract.get("particles")
    if not isinstance(chosen, dict) or not now:
        return []
    found = []
    for key, (name, section) in _STAGES.items():
        figures = summary.get(section, {})
        if isinstance(figures.get("particles"), int) and chosen.get(key) in WORTH_ANEW:
            made = figures["particles"]
            anew = figures.get("anew_particles") or made
            total = extract.get("particles") or now if key == "classify" else now
            found.append(Increment(key, name, chosen[key], made, anew, max(made, total)))
    return found


def figures(stages: list[Increment]) -> Numbers:
    """Figures for summary.json."""
    numbers: Numbers = {}
    for stage in stages:
        numbers[f"{stage.key}_particles"] = stage.made_particles
        numbers[f"{stage.key}_anew_particles"] = stage.anew_particles
        numbers[f"{stage.key}_new_percent"] = round(100 * stage.share_new, 2)
    return numbers


def verdicts(stages: list[Increment], project: str) -> list[dict[str, str]]:
    """Verdicts on frozen stages; refreshed ones give theirs themselves."""
    rows = []
    for stage in stages:
        if stage.choice != "frozen" or not stage.share_new:
            continue
        evidence = (
            f"It is frozen: made of {plural(stage.made_particles, 'particle')}, of now {stage.now}; "
            f"{stage.share_new:.0%} are new. Half of them new is where to begin anew is worth it."
        )
        action = f"emflow restart {project} {stage.key}, and run again." if stage.worth_anew else ""
        answer = "warn" if stage.worth_anew else "pass"
        question = f"{stage.name}: is it still good enough for the particles that came since?"
        rows.append({"question": question, "verdict": answer, "evidence": evidence, "action": action})
    return rows
