from metta.rl.training.core import CoreTrainingLoop, RolloutResult
from metta.rl.training.experience import Experience

__all__ = ["CoreTrainingLoop", "Experience", "RolloutResult"]
