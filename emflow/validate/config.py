"""Settings of the validate room."""

from emflow.step import StepConfig

STEPS: dict[str, type[StepConfig]] = {}
