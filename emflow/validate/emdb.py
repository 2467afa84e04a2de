"""The FSC as the Electron Microscopy Data Bank takes it: XML of points."""

from __future__ import annotations

from xml.etree import ElementTree

from torch import Tensor


def fsc_xml(curve: Tensor, size_angstrom: float, title: str) -> str:
    """Write a curve (shells,) as EMDB's FSC file: x is the spatial frequency in 1/Å, y the correlation.

    Parameters
    ----------
    curve
        FSC by shell, from shell 0.
    size_angstrom
        Side of the box: shell i stands at i/size.
    title
        Title of the plot.
    """
    root = ElementTree.Element("fsc", title=title, xaxis="Resolution (A-1)", yaxis="Correlation Coefficient")
    for shell, value in enumerate(curve.tolist()):
        point = ElementTree.SubElement(root, "coordinate")
        ElementTree.SubElement(point, "x").text = f"{shell / size_angstrom:.6f}"
        ElementTree.SubElement(point, "y").text = f"{value:.6f}"
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
