"""Settings of the session room."""

from emflow.step import StepConfig

STEPS: dict[str, type[StepConfig]] = {}
