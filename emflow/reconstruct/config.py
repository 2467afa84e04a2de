"""Settings of the reconstruct room."""

from emflow.step import StepConfig

STEPS: dict[str, type[StepConfig]] = {}
