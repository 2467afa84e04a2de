"""emflow: from micrographs to a validated ensemble of structures."""

__version__ = "0.1.0"
