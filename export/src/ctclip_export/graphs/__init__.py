"""ONNX graphs: preprocessing and scoring are written as graphs, both encoders are traced."""

from ctclip_export.graphs.encoders import trace_text, trace_vision
from ctclip_export.graphs.preprocess import preprocess_graph
from ctclip_export.graphs.relevance import relevance_graph
from ctclip_export.graphs.score import classfine_graph, findings_graph, score_graph

__all__ = [
    "classfine_graph",
    "findings_graph",
    "preprocess_graph",
    "relevance_graph",
    "score_graph",
    "trace_text",
    "trace_vision",
]
