"""One CUDA graph for the encode of one picture, whose many small kernels take longer to launch than to run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

WARMUPS = 2  # cuBLAS and cuDNN choose and allocate on the first calls, which must not happen inside a capture


class GraphedForward:
    """Calls `function(x)` and, from the second call with a shape on, replays a captured graph of it.

    Safe where the weights stay at their addresses: whoever moves them calls `reset`, or gives `addresses`. Only one
    shape is kept, since the graph holds its own memory for activations. The result is a tensor of its own; the next
    call does not touch it.

    Args:
        addresses: where the weights are, asked at each call; None while they cannot be captured.
    """

    def __init__(
        self, function: Callable[[Tensor], Tensor], addresses: Callable[[], tuple[int, ...] | None] = tuple
    ) -> None:
        self.function = function
        self.addresses = addresses
        self.refused = False
        self.lock = threading.Lock()
        self.key: tuple[torch.Size, torch.dtype, torch.device, tuple[int, ...] | None] | None = None
        self.graph: torch.cuda.CUDAGraph | None = None

    def reset(self) -> None:
        """Forget the graph, once it has run to its end."""
        if self.graph is not None:
            self.done.synchronize()
        self.key, self.graph = None, None

    def is_current(self, x: Tensor) -> bool:
        """Whether x is like the last one and the weights are where they were; otherwise the graph is forgotten."""
        key = (x.shape, x.dtype, x.device, self.addresses())
        if key == self.key and key[-1] is not None and not self.refused:
            return True
        self.reset()
        self.key = key
        return False

    # The buffers outlive the call, and a tensor made in inference mode could not be written to outside of it.
    @torch.inference_mode(mode=False)
    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        with self.lock, torch.cuda.device(x.device):
            if not self.is_current(x):
                return self.function(x)
            if self.graph is None:
                try:
                    self.graph = self._capture(x)
                except torch.cuda.OutOfMemoryError:
                    raise
                except RuntimeError as error:  # an allocator or a layer of the host may have no place in a graph
                    self.refused = True
                    logger.warning("The vision tower runs without a CUDA graph: %s", str(error).splitlines()[0])
                    return self.function(x)
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
