"""The command that sharpens two half maps: files in, files out."""

from __future__ import annotations

from pathlib import Path

from emflow.device import prepare
from emflow.io.record import Record
from emflow.reconstruct import judge
from emflow.reconstruct.config import ReconstructSharpen
from emflow.reconstruct.inputs import diameter_of
from emflow.reconstruct.inputs_sharpen import read_mtf, read_raw_halves
from emflow.reconstruct.outputs import write_sharpened
from emflow.reconstruct.sharpen import sharpen_halves
from emflow.step import EmflowError, Run


def sharpen(
    *paths: Path,
    cfg: ReconstructSharpen = ReconstructSharpen(),
    run: Run = Run(),
    mask: Path | None = None,
    mtf: Path | None = None,
) -> None:
    """Sharpen the mean of two raw half maps, as a whole and voxel by voxel (FOLDER OUT, or HALF1 HALF2 OUT).

    Parameters
    ----------
    paths
        Folder of a refinement (half1.mrc, half2.mrc, mask.mrc), or two raw half maps; last the folder to write:
        map_sharpened.mrc, map_local.mrc, local_resolution.mrc, mask.mrc, sharpening.star, metrics.json,
        verdicts.json, figures. The half maps are only read.
    mask
        Mask with values 0 to 1 (MRC); by default the folder's, or one that is made from the mean of the halves.
    mtf
        Modulation transfer function of the detector, to be divided out: STAR with rlnResolutionInversePixel and
        rlnMtfValue.
    """
    if len(paths) not in (2, 3):
        raise EmflowError(f"{len(paths)} paths; expected FOLDER OUT, or HALF1 HALF2 OUT.")
    *given, out = paths
    device = prepare(run)
    halves = read_raw_halves(given, out, mask, cfg.voxel_size_angstrom)
    with Record("reconstruct.sharpen", cfg, run, inputs=[*halves.paths, *(p for p in (mask, mtf) if p)]):
        one, two = (volume.to(device) for volume in halves.volumes)
        box, voxel = one.shape[-1], halves.voxel_size_angstrom
        transfer = read_mtf(mtf, box, voxel, cfg.mtf_pixel_size_angstrom) if mtf is not None else None
        around = halves.mask.to(device) if halves.mask is not None else None
        diameter = diameter_of(cfg, box, voxel)
        made = sharpen_halves(one, two, voxel, diameter, cfg, mask=around, mtf=transfer)
        judgements = [
            judge.judge_agreement("Do two independent halves agree?", made.agreement, "The half maps"),
            judge.judge_sharpening(made, cfg),
        ]
        write_sharpened(out, made, halves, judgements)
