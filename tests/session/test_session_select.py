"""The quality table: every micrograph once, with every step's columns and the reason why it was left out."""

from pathlib import Path

import pandas as pd
import pytest

from emflow.io.star import read_star, write_star
from emflow.session.command import select
from emflow.session.config import SessionSelect
from emflow.session.select import StepTables, select_micrographs
from emflow.step import EmflowError

ASIDE = ["rlnMicrographName", "emflowMicrographId", "emflowReason", "emflowExpected"]


def table(**rows: dict[str, str]) -> pd.DataFrame:
    """Rows by id; each has a name."""
    content = [
        {"rlnMicrographName": f"raw/{i}.mrc", "emflowMicrographId": i, **row} for i, row in rows.items()
    ]
    return pd.DataFrame(content, columns=None if content else pd.Index(ASIDE[:2]), dtype=object)


def aside(**reasons: str) -> pd.DataFrame:
    rows = [[f"raw/{i}.mrc", i, reason, "better"] for i, reason in reasons.items()]
    return pd.DataFrame(rows, columns=pd.Index(ASIDE), dtype=object)


def steps() -> list[StepTables]:
    half, coarse = {"rlnRandomSubset": "1"}, {"rlnCtfMaxResolution": "60"}
    return [
        StepTables("session.check", table(a=half, b=half, c=half, d=half), aside(e="NaN")),
        StepTables("ctf.fit", table(a={"rlnCtfMaxResolution": "4.5"}, b=coarse, d={}), aside(c="no rings")),
        StepTables(
            "pick.apply",
            table(d={"emflowPickCount": "0"}, a={"emflowPickCount": "7", "emflowMaskedFraction": "0.5"}, b={}, x={}),
            aside(),
        ),
    ]  # fmt: skip


def fates(quality: pd.DataFrame) -> dict[str, tuple[str, str]]:
    rows = quality.to_dict("records")
    return {r["emflowMicrographId"]: (r["emflowAccepted"], r["emflowStep"]) for r in rows}


def test_every_micrograph_once_with_its_fate() -> None:
    quality, _ = select_micrographs(steps(), [], SessionSelect())
    assert fates(quality) == {
        "a": ("1", "None"),
        "b": ("0", "session.select"),
        "c": ("0", "ctf.fit"),
        "d": ("1", "None"),
        "e": ("0", "session.check"),
    }
    rows = quality.set_index("emflowMicrographId")
    assert rows.loc["a", "emflowPickCount"] == "7"
    assert rows.loc["e", "rlnCtfMaxResolution"] == "None"
    assert rows.loc["c", "emflowReason"] == "no rings"
    assert "60 Å" in rows.loc["b", "emflowReason"]
    assert "max_ctf_resolution_angstrom" in rows.loc["b", "emflowExpected"]


@pytest.mark.parametrize(
    ("cfg", "accepted"),
    [
        (SessionSelect(max_ctf_resolution_angstrom=None), "abd"),
        (SessionSelect(max_ctf_resolution_angstrom=4.0), "d"),
        (SessionSelect(min_picks=1), "a"),
        (SessionSelect(max_masked_fraction=0.4), "d"),
    ],
)
def test_thresholds(cfg: SessionSelect, accepted: str) -> None:
    quality, _ = select_micrographs(steps(), [], cfg)
    assert "".join(i for i, (ok, _) in fates(quality).items() if ok == "1") == accepted


def test_step_that_forgets_a_micrograph_is_named() -> None:
    broken = [steps()[0], StepTables("ctf.fit", table(a={}), aside())]
    quality, _ = select_micrographs(broken, [], SessionSelect())
    assert fates(quality)["d"] == ("0", "ctf.fit")
    assert "says nothing about it" in quality["emflowReason"][3]


def test_a_person_excludes_by_name_stem_path_or_id() -> None:
    for label in ("a", "a.mrc", "raw/a.mrc"):
        quality, labels = select_micrographs(steps(), [label, "typo.mrc"], SessionSelect())
        assert fates(quality)["a"] == ("0", "session.select")
        assert quality["emflowReason"][0] == "excluded by hand"
        assert labels.to_numpy().tolist() == [[label, "1"], ["typo.mrc", "0"]]


def test_nothing_accepted_flows_on() -> None:
    none = [StepTables(s, table(), aside(e="NaN")) for s in ("session.check", "ctf.fit", "pick.apply")]
    quality, _ = select_micrographs(none, [], SessionSelect())
    assert fates(quality) == {"e": ("0", "session.check")}


def write(folder: Path) -> list[Path]:
    optics = pd.DataFrame({"rlnOpticsGroup": ["1"], "rlnMicrographPixelSize": ["3.0"]}, dtype=object)
    paths = [folder / f"{name}.star" for name in ("check", "ctf", "pick")]
    for path, step in zip(paths, steps(), strict=True):
        write_star(path, {"optics": optics, "micrographs": step.results, "set_aside": step.set_aside})
    return paths


def test_command_reads_labels_and_is_repeatable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = write(tmp_path)
    select(*paths, tmp_path / "one.star")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "excluded_micrographs.txt").write_text("# mine\na.mrc\n\nnobody\n")
    select(*paths, tmp_path / "two.star")
    select(*paths, tmp_path / "three.star")
    one, two = read_star(tmp_path / "one.star"), read_star(tmp_path / "two.star")
    assert list(one["micrographs"]["emflowAccepted"]) == ["1", "0", "0", "1", "0"]
    assert list(two["micrographs"]["emflowAccepted"]) == ["0", "0", "0", "1", "0"]
    assert len(one["labels"]) == 0
    assert list(two["labels"]["emflowMatched"]) == ["1", "0"]
    assert (tmp_path / "two.star").read_bytes() == (tmp_path / "three.star").read_bytes()
    with pytest.raises(EmflowError, match=r"session.select.excluded_micrographs: there is no file mine\.txt"):
        select(*paths, tmp_path / "x.star", cfg=SessionSelect(excluded_micrographs="mine.txt"))
