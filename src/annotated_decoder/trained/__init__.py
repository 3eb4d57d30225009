"A model of your own: one file that holds it, in PyTorch or in NumPy, batches, checkpoints, the hub, and ONNX."

from typing import TYPE_CHECKING

from .. import lazily

__all__ = [
    "TrainedModel", "NumpyModel", "Transcription", "answer_in_bulk", "TrainingRun", "Checkpoints", "train_resumably", "save_folder",
    "load_from_hub", "push_to_hub", "export_onnx", "OnnxModel", "generate_onnx", "processes", "train_together",
]  # fmt: skip

if TYPE_CHECKING:
    from .batches import Transcription
    from .checkpoints import Checkpoints, train_resumably
    from .hub import load_from_hub, push_to_hub, save_folder
    from .in_bulk import answer_in_bulk
    from .in_numpy import NumpyModel
    from .meeting import processes
    from .model_file import TrainedModel
    from .onnx_export import export_onnx
    from .onnx_run import OnnxModel, generate_onnx
    from .resuming import TrainingRun
    from .together import train_together

_MODULES = {
    "batches": ["Transcription"], "checkpoints": ["Checkpoints", "train_resumably"],
    "hub": ["load_from_hub", "push_to_hub", "save_folder"], "in_bulk": ["answer_in_bulk"], "in_numpy": ["NumpyModel"],
    "meeting": ["processes"], "model_file": ["TrainedModel"], "onnx_export": ["export_onnx"], "onnx_run": ["OnnxModel", "generate_onnx"],
    "resuming": ["TrainingRun"], "together": ["train_together"],
}  # fmt: skip

__getattr__, __dir__ = lazily(__name__, _MODULES)
