"""When the pooled steps are worth their cost again."""

from __future__ import annotations

from dataclasses import dataclass

from emflow.project.watch.config import Watch


@dataclass
class Cadence:
    """When the pooled steps were last begun, and on what."""

    particles: int | None = None
    """Particles then; None if they never ran."""
    at: float = 0.0
    """Time of day then, seconds."""
    unfinished: bool = False
    """Whether that run was interrupted."""

    def due(self, cfg: Watch, particles: int, now: float, quiet_s: float) -> str:
        """Say why they should run, or nothing.

        Parameters
        ----------
        particles
            Particles extracted so far.
        now
            Time of day, seconds. Where that clock jumps back, the hours begin anew.
        quiet_s
            Seconds since something came or was processed.
        """
        rules = (cfg.pooled_growth, cfg.pooled_new_particles, cfg.pooled_hours, cfg.pooled_idle_minutes)
        if all(rule is None for rule in rules) or not particles or particles < cfg.pooled_minimum_particles:
            return ""
        if self.particles is None:
            return f"there are {particles} particles"
        if self.unfinished:
            return "they were interrupted"
        if particles <= self.particles:
            return ""
        self.at = min(self.at, now)
        if cfg.pooled_growth and particles >= cfg.pooled_growth * self.particles:
            return f"the particles have grown from {self.particles} to {particles}"
        if cfg.pooled_new_particles and particles - self.particles >= cfg.pooled_new_particles:
            return f"there are {particles - self.particles} new particles"
        if cfg.pooled_hours and now - self.at >= 3600 * cfg.pooled_hours:
            return f"{cfg.pooled_hours:g} h have passed"
        if cfg.pooled_idle_minutes and quiet_s >= 60 * cfg.pooled_idle_minutes:
            return f"nothing has come for {cfg.pooled_idle_minutes:g} min"
        return ""
