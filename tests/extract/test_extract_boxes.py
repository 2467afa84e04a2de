"""Box sizes, new centres, optics groups, joining."""

import numpy as np
import pandas as pd
import pytest

from emflow.extract.boxes import choose_box
from emflow.extract.config import ExtractRecenter, ExtractRun
from emflow.extract.join import join_shards, judge, measure
from emflow.extract.recenter import recenter
from emflow.extract.table import match_micrographs
from emflow.step import EmflowError


def test_automatic_box_is_binned_to_about_64_px() -> None:
    box = choose_box(ExtractRun(diameter_angstrom=200), 1.0)
    assert (box.cut_px, box.size_px) == (320, 64)
    assert box.pixel_size_angstrom == pytest.approx(5.0)
    assert box.background_radius_px == pytest.approx(22)  # 1.1 diameters


def test_images_are_never_finer_than_the_data() -> None:
    box = choose_box(ExtractRun(diameter_angstrom=100), 4.0)
    assert box.cut_px == box.size_px == 40
    assert box.pixel_size_angstrom == 4


def test_recentred_images_keep_the_pixels_up_to_the_largest_size() -> None:
    assert choose_box(ExtractRecenter(diameter_angstrom=130), 1.5).size_px == 140
    large = choose_box(ExtractRecenter(diameter_angstrom=400), 1.0)
    assert (large.cut_px, large.size_px, large.pixel_size_angstrom) == (640, 256, 2.5)
    coarse = choose_box(ExtractRecenter(diameter_angstrom=200, resolution_angstrom=8.0), 1.0)
    assert coarse.size_px % 2 == 0
    assert 3.6 < coarse.pixel_size_angstrom <= 4


def test_box_can_be_set_without_a_diameter_but_one_is_needed() -> None:
    box = choose_box(ExtractRun(box_size_px=96, binned_size_px=0), 2.0)
    assert (box.cut_px, box.size_px, box.background_radius_px) == (96, 96, 36)
    with pytest.raises(EmflowError, match="diameter_angstrom"):
        choose_box(ExtractRun(), 2.0)


def test_background_circle_stays_within_the_box() -> None:
    box = choose_box(ExtractRun(diameter_angstrom=200, box_size_px=200, binned_size_px=0), 1.0)
    assert box.background_radius_px < 100


def test_recentre_moves_against_the_origin_and_keeps_the_rest() -> None:
    """A particle sits at −origin: origin +6 Å in x at 2 Å/px is 3 px to the left."""
    centres, rest = recenter(np.array([[100.7, 50.0]]), np.array([[6.0, -5.0]]), 2.0)
    np.testing.assert_array_equal(centres, [[97, 52]])  # 50 + 2.5, to even
    np.testing.assert_allclose(rest, [[0.0, -1.0]])  # half a pixel is left
    np.testing.assert_allclose(centres - rest / 2, [[97, 52.5]])  # where it is has not changed


def test_particles_find_their_micrographs_by_id_or_by_base_name() -> None:
    micrographs = pd.DataFrame(
        {"rlnMicrographName": ["x/a.mrc", "x/b.tif"], "emflowMicrographId": ["i", "j"]}
    )
    by_name = pd.DataFrame({"rlnMicrographName": ["other/b.mrc", "a.mrc", "c.mrc"]})
    assert match_micrographs(by_name, micrographs).tolist() == [1, 0, -1]
    by_id = by_name.assign(emflowMicrographId=["i", "j", "k"])
    assert match_micrographs(by_id, micrographs).tolist() == [0, 1, -1]


def shard(
    ids: list[str], micrograph: str, voltage: str = "300", name: str = "one"
) -> dict[str, pd.DataFrame]:
    optics = pd.DataFrame(
        {
            "rlnOpticsGroup": ["1"],
            "rlnOpticsGroupName": [name],
            "rlnVoltage": [voltage],
            "rlnSphericalAberration": ["2.7"],
            "rlnAmplitudeContrast": ["0.1"],
            "rlnImagePixelSize": ["2"],
            "rlnImageSize": ["100"],
        }
    )
    particles = pd.DataFrame(
        {
            "rlnImageName": [f"{i + 1:06d}@{micrograph}.mrcs" for i in range(len(ids))],
            "rlnOpticsGroup": "1",
            "rlnDefocusU": "20000",
            "rlnDefocusV": "19000",
            "rlnRandomSubset": "1" if micrograph == "m" else "2",
            "emflowParticleId": ids,
            "emflowMicrographId": micrograph,
        },
        dtype=object,
    )
    lost = pd.DataFrame({"emflowDroppedOutside": ["3"], "emflowDroppedFlat": ["1"]})
    return {"optics": optics, "particles": particles, "micrographs": lost}


def test_join_merges_equal_optics_groups_and_numbers_others_anew() -> None:
    joined = join_shards([shard(["a"], "m"), shard(["b"], "n"), shard(["c"], "k", voltage="200")])
    assert joined.particles["rlnOpticsGroup"].tolist() == ["1", "1", "2"]
    assert joined.optics["rlnOpticsGroup"].tolist() == ["1", "2"]
    assert joined.optics["rlnVoltage"].tolist() == ["300", "200"]
    assert len(join_shards([shard(["a"], "m"), shard(["b"], "n", name="two")]).optics) == 2


def test_join_leaves_out_rejected_micrographs_and_repeated_particles() -> None:
    shards = [shard(["a", "b"], "m"), shard(["c"], "n"), shard(["b", "d"], "k")]
    joined = join_shards(shards, accepted={"m", "k"})
    assert joined.particles["emflowParticleId"].tolist() == ["a", "b", "d"]
    assert (joined.not_accepted, joined.repeated, joined.outside, joined.flat) == (1, 1, 9, 3)
    metrics = measure(joined, None)
    assert metrics["particles"] == 3
    assert metrics["half1_particles"] == 2
    assert metrics["half2_particles"] == 1


def test_delocalisation_is_set_against_the_box() -> None:
    """1.95 µm at 4 Å and 300 kV: 0.0197·19500/4 − 2.7e7·0.0197³/64 = 92.8 Å to each side."""
    joined = join_shards([shard(["a"], "m")])
    metrics = measure(joined, 150.0)  # the box of 200 Å leaves 25 Å to each side
    assert metrics["delocalisation_angstrom"] == pytest.approx(92.8, abs=0.5)
    assert metrics["box_holds_angstrom"] == pytest.approx(0.0197 * 19500 / 25, rel=0.03)
    answers = {question: answer for question, answer, *_ in judge(metrics)}
    assert answers["Does the box hold what defocus spreads?"] == "warn"
    assert answers["Are there enough particles?"] == "warn"


def test_no_particles_is_a_plain_verdict() -> None:
    empty = shard(["a"], "m")
    empty["particles"] = empty["particles"].iloc[:0]
    joined = join_shards([empty, empty])
    assert len(joined.particles) == 0
    assert len(joined.optics) == 1
    (only,) = judge(measure(joined, 100.0))
    assert only[1:3] == ("fail", "no particles")
