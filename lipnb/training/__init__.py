"""Part V: training loops of the reproductions."""

from lipnb.training.information_tasks import (
    INFORMATION_TASKS,
    InformationTask,
    correlated_gaussians,
    information_task,
)
from lipnb.training.information_verdict import MutualInformation
from lipnb.training.mutual_information import estimate_many, estimate_mutual_information

__all__ = [
    "INFORMATION_TASKS",
    "InformationTask",
    "MutualInformation",
    "correlated_gaussians",
    "estimate_many",
    "estimate_mutual_information",
    "information_task",
]
