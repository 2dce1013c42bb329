"""Training runs: configuration, run directory, progress, checkpoints."""

from hotloop.trainer.config import TrainConfig
from hotloop.trainer.result import TrainResult
from hotloop.trainer.trainer import Trainer

__all__ = ["TrainConfig", "TrainResult", "Trainer"]
