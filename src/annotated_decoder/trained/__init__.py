"A model of your own: one file that holds it, batches, checkpoints of its training, the hub, and ONNX."

from .batches import Transcription
from .checkpoints import Checkpoints, train_resumably
from .hub import SharedModel
from .model_file import TrainedModel
from .onnx_export import export_onnx
from .onnx_run import OnnxModel, generate_onnx

__all__ = [
    "TrainedModel", "Transcription", "Checkpoints", "train_resumably", "SharedModel", "export_onnx", "OnnxModel",
    "generate_onnx",
]  # fmt: skip
