"A model of your own: one file that holds it, batches, checkpoints of its training, the hub, and ONNX."

from .batches import Transcription
from .checkpoints import Checkpoints, train_resumably
from .hub import load_from_hub, push_to_hub, save_folder
from .model_file import TrainedModel
from .onnx_export import export_onnx
from .onnx_run import OnnxModel, generate_onnx
from .resuming import TrainingRun

__all__ = [
    "TrainedModel", "Transcription", "TrainingRun", "Checkpoints", "train_resumably", "save_folder", "load_from_hub",
    "push_to_hub", "export_onnx", "OnnxModel", "generate_onnx",
]  # fmt: skip
