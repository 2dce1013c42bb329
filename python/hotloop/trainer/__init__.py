"""Training runs: configuration, run directory, progress, checkpoints."""

from hotloop.trainer.config import TrainConfig
from hotloop.trainer.trainer import Trainer, TrainResult

__all__ = ["TrainConfig", "TrainResult", "Trainer"]
