"""One CUDA graph for the encode of one picture, whose many small kernels take longer to launch than to run."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor

WARMUPS = 2  # cuBLAS and cuDNN choose and allocate on the first calls, which must not happen inside a capture


class GraphedForward:
    """Calls `function(x)` and, from the second call with a shape on, replays a captured graph of it.

    Safe where the weights stay at their addresses: whoever moves them calls `reset`. Only one shape is kept, since the
    graph holds its own memory for activations. The result is a tensor of its own; the next call does not touch it.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        self.lock = threading.Lock()
        self.key: tuple[torch.Size, torch.dtype, torch.device] | None = None
        self.graph: torch.cuda.CUDAGraph | None = None

    def reset(self) -> None:
        """Forget the graph, once it has run to its end."""
        if self.graph is not None:
            self.done.synchronize()
        self.key, self.graph = None, None

    # The buffers outlive the call, and a tensor made in inference mode could not be written to outside of it.
    @torch.inference_mode(mode=False)
    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        with self.lock, torch.cuda.device(x.device):
            key = (x.shape, x.dtype, x.device)
            if key != self.key:
                self.reset()
                self.key = key
                return self.function(x)
            if self.graph is None:
                self.graph = self._capture(x)
            stream = torch.cuda.current_stream()
            stream.wait_event(self.done)  # a caller on another stream may still be using the buffers
            self.input.copy_(x)
            self.graph.replay()
            output = self.output.clone()
            self.done.record(stream)
            return output

    def _capture(self, x: Tensor) -> torch.cuda.CUDAGraph:
        self.input = x.clone()
        self.done = torch.cuda.Event()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUPS):
                self.function(self.input)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self.output = self.function(self.input)
        return graph
