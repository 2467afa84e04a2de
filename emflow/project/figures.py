"""Print the main figures of a finished project and where its page is.

python -m emflow.project.figures results/demo
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

MAIN = {
    "session": "micrographs accepted set_aside",
    "ctf": "defocus_median_um fit_resolution_median_angstrom",
    "pick": "picks picks_per_micrograph_median",
    "extract": "particles box_px pixel_size_angstrom",
    "reconstruct.abinitio": "resolution_angstrom",
    "reconstruct.refine": "particles iterations resolution_whole_angstrom",
    "validate": "resolution_angstrom resolution_fsc05_angstrom",
    "validate.local": "local_resolution_p05_angstrom local_resolution_median_angstrom "
    "local_resolution_p95_angstrom resolved_fraction",
    "heterogeneity": "components states",
    "heterogeneity.check": "coordinates_real states_confirmed",
    "validate.particles": "overfitting_fraction outliers effective_particles number_bfactor_angstrom2",
    "validate.states": "states_resolved resolution_best_angstrom resolution_worst_angstrom",
    "simulation": "n_micrographs n_particles snr_in_box defocus_min_um defocus_max_um n_carbon_micrographs",
    "truth": "pick_precision pick_recall pick_f1 pick_raw_f1 pick_denoised_f1 "
    "ctf_defocus_error_median_angstrom refine_pose_error_median_deg "
    "refine_map_to_truth_fsc05_angstrom refine_attainable_fsc05_angstrom refine_over_attainable_ratio "
    "halves_over_truth_ratio denoise_gain_over_raw_db denoise_gain_over_gaussian_db "
    "heterogeneity_coordinate1_rank_correlation heterogeneity_fsc_area heterogeneity_mean_fsc_area",
    "vem.slices": "slices_used slices_absent",
    "vem.model": "held_out_psnr_db held_out_psnr_linear_db",
    "vem": "share_abstained half_width_mean axial_over_lateral_power",
    "vem.score": "psnr_db ssim_xz axial_resolution_voxels high_frequency_power coverage",
    "vem.segmentation": "segments",
    "vem.score_segments": "rand info dice",
    "cost": "jobs cpu_s peak_memory_mb",
}
"""The main figures of each section of summary.json; the rest stands on the page."""


def lines(summary: dict[str, dict[str, Any]]) -> list[str]:
    """Return the main figures of each section, one a line, aligned."""
    found = []
    for section, names in MAIN.items():
        numbers = summary.get(section, {})
        told = [(name, numbers[name]) for name in names.split() if numbers.get(name) is not None]
        if told:
            found.append(section)
        found += [
            f"  {name:<40} {value if isinstance(value, int) else f'{value:.4g}'}" for name, value in told
        ]
    return found


def doubts(verdicts: list[dict[str, str]]) -> list[str]:
    """Return the verdicts that did not pass: a resolution is not to be read without them."""
    return [
        f"{row['verdict']}: {row['question']} {row['evidence']}"
        for row in verdicts
        if row["verdict"] != "pass"
    ]


def main(project: Path) -> None:
    """Print the figures of a project's summary.json, and the path of its page."""
    summary = json.loads((project / "report" / "summary.json").read_text(encoding="utf-8"))
    room = "vem" if (project / "vem").is_dir() else "validate"
    verdicts = json.loads((project / room / "verdicts.json").read_text(encoding="utf-8"))
    print("\n".join([*lines(summary), "", *doubts(verdicts)]))
    print(f"\nThe page: {(project / 'report' / 'index.html').resolve()}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
