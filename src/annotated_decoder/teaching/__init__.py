"What the pages are drawn with: figures in the page's own colours, diagrams, interactive pieces, a decoder for a pencil."

from .diagrams import you_are_here
from .drawing import Diagram, bars, heat_map
from .interactive import Piece

__all__ = ["Diagram", "heat_map", "bars", "you_are_here", "Piece"]
