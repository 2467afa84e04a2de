"""Atomic models: PDB and mmCIF say the same; broken files are refused in words."""

from pathlib import Path

import gemmi
import pytest

from emflow.io.atoms import read_atoms
from emflow.step import EmflowError

PDB = """\
ATOM      1  N   GLY A   1      11.000  12.000  13.000  1.00 10.00           N
ATOM      2  CA  GLY A   1      12.400  12.100  13.300  0.50 10.00           C
ATOM      3  H   GLY A   1      10.500  12.500  13.500  1.00 10.00           H
HETATM    4  O   HOH A   2      30.000  30.000  30.000  1.00 10.00           O
END
"""


def test_pdb_and_mmcif_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.pdb").write_text(PDB)
    gemmi.read_structure(str(tmp_path / "a.pdb")).make_mmcif_document().write_file(str(tmp_path / "a.cif"))
    position, electrons = read_atoms(tmp_path / "a.pdb")
    assert position.tolist() == [[11.0, 12.0, 13.0], [12.4, 12.1, 13.3]]  # no hydrogen, no water
    assert electrons.tolist() == pytest.approx([7 + 1.2, 0.5 * (6 + 1.5)])
    again = read_atoms(tmp_path / "a.cif")
    assert again[0].tolist() == position.tolist()
    assert again[1].tolist() == electrons.tolist()


@pytest.mark.parametrize(
    "content", ["", "HEADER    NOTHING\nEND\n", "data_x\nloop_\n_a\n_b\n1 2 3\n", "\x00\x01garbage"]
)
@pytest.mark.parametrize("name", ["a.pdb", "a.cif"])
def test_broken_or_empty_models_are_refused(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(EmflowError, match=name):
        read_atoms(tmp_path / name)
