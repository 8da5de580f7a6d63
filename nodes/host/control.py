"""The object that ComfyUI calls before each model call of a conditioning with references.

It adds a wrapper around that one call. The wrapper knows the latent, the sigma, the context and any Kontext pictures,
takes references that are not acting out of the context, and puts the rest into attention.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import comfy.patcher_extension
import torch
from comfy.controlnet import ControlBase

from ...redux.control import Layout, Reference, StepWeights
from ...redux.schedule import percent_of_sigma
from .override import AttentionCall, running

if TYPE_CHECKING:
    from .conditioning import Mark

MARK = "redux_references"
COMPILED_KEY = "redux_attention"
log = logging.getLogger(__name__)


class ReduxControl(ControlBase):
    """Carries no picture and adds no residuals: it only wraps the model call. Other ControlNets chain as usual."""

    def __init__(self) -> None:
        super().__init__()
        self.percent_to_sigma: Callable[[float], float] = lambda percent: 1.0 - percent
        self.calls = 0
        self.attended = 0
        self._weights: StepWeights | None = None

    def weights(
        self, active: list[tuple[Reference, float]], layout: Layout, device: torch.device, track: bool
    ) -> StepWeights:
        """The weights of a call; those of the call before when nothing has changed since, as in most steps."""
        last = self._weights
        key = (tuple(active), layout, device, track)
        if last is None or (last.active, last.layout, last.device, last.track) != key:
            self._weights = last = StepWeights(active, layout, device, track)
        return last

    def pre_run(self, model: Any, percent_to_timestep_function: Callable[[float], float]) -> None:
        super().pre_run(model, percent_to_timestep_function)
        self.percent_to_sigma = percent_to_timestep_function
        self.calls = self.attended = 0

    def get_control(
        self, x_noisy: torch.Tensor, t: torch.Tensor, cond: dict, batched_number: int, transformer_options: dict
    ) -> Any:
        mark = cond.pop(MARK, None)
        if mark is not None:
            self._wrap(transformer_options, WrappedCall(self, mark, batched_number))
        if self.previous_controlnet is None:
            return None
        return self.previous_controlnet.get_control(x_noisy, t, cond, batched_number, transformer_options)

    @staticmethod
    def _wrap(transformer_options: dict, call: WrappedCall) -> None:
        """Add the wrapper to these options alone: nested tables are copied, they may belong to the model."""
        kind = comfy.patcher_extension.WrappersMP.APPLY_MODEL
        wrappers = dict(transformer_options.get("wrappers", {}))
        wrappers[kind] = {**wrappers.get(kind, {}), MARK: [call]}
        transformer_options["wrappers"] = wrappers

    def cleanup(self) -> None:
        if self.calls and not self.attended:
            log.warning(
                "Redux: this model does not use ComfyUI's attention, so strength, region and blocks of the reference "
                "had no effect; what works here: Pool Reference, fewer tokens, start_percent and end_percent."
            )
        self.calls = self.attended = 0
        self._weights = None
        super().cleanup()

    def copy(self) -> ReduxControl:
        control = ReduxControl()
        self.copy_to(control)
        return control

    def deepclone_multigpu(self, load_device: torch.device, autoregister: bool = False) -> ReduxControl:
        control = self.copy()
        if autoregister:
            self.multigpu_clones[load_device] = control
        return control


class WrappedCall:
    """Wraps BaseModel.apply_model for one model call."""

    def __init__(self, control: ReduxControl, mark: Mark, chunks: int) -> None:
        self.control = control
        self.mark = mark
        self.chunks = chunks

    def __call__(
        self,
        executor: Any,
        x: torch.Tensor,
        t: torch.Tensor,
        c_concat: Any = None,
        c_crossattn: torch.Tensor | None = None,
        control: Any = None,
        transformer_options: dict | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        if c_crossattn is None or c_crossattn.shape[1] < self.mark.length:
            log.warning("Redux: another node removed the reference tokens from the conditioning; it has no effect.")
            return executor(x, t, c_concat, c_crossattn, control, transformer_options or {}, **kwargs)
        active, keep = self._active(t)
        if keep is not None:
            c_crossattn, kwargs = take_out(keep, c_crossattn, kwargs)
        call = self._attention(executor.class_obj.diffusion_model, x, c_crossattn, active, kwargs)
        options = dict(transformer_options or {})
        if call is None:
            return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        self.control.calls += 1
        if hasattr(executor.class_obj.diffusion_model, "_orig_mod"):
            kwargs[COMPILED_KEY] = True  # an argument that torch.compile guards on, see override.py
        with running(call, options) as options:
            return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

    def _active(self, t: torch.Tensor) -> tuple[list[tuple[Reference, float]], list[slice] | None]:
        """References with their weights at this step, and what stays of the context if that is not all of it."""
        references = self.mark.references
        percent = 0.0
        if any(not reference.schedule.is_constant for reference in references):
            percent = percent_of_sigma(float(t.flatten()[0]), self.control.percent_to_sigma)
        active, keep, start = [], [], 0
        for reference in references:
            weight = reference.strength * reference.schedule.factor(percent)
            if weight > 0:
                active.append((reference, weight))
                keep.append(slice(start, start + reference.length))
            start += reference.length
        return active, None if len(active) == len(references) else [*keep, slice(start, None)]

    def _attention(
        self, model: Any, x: torch.Tensor, context: torch.Tensor, active: list[tuple[Reference, float]], kwargs: dict
    ) -> AttentionCall | None:
        """What attention has to do in this call; None when the tokens just stand in the sequence."""
        recorder = self.mark.recorder
        if recorder is None and all(reference.is_plain for reference, _ in active):
            return None
        if recorder is not None and not self.control.calls:
            recorder.reset()
        patch = getattr(model, "patch_size", 2)
        rows, columns = _grid(x, patch)
        pictures = [_grid(picture, patch) for picture in kwargs.get("ref_latents") or []]
        layout = Layout(
            text=context.shape[1] - sum(reference.length for reference, _ in active),
            rows=rows,
            columns=columns,
            extra=sum(height * width for height, width in pictures),
            batch=x.shape[0],
            chunks=self.chunks,
        )
        return AttentionCall(
            self.control.weights(active, layout, x.device, recorder is not None), self.control, recorder
        )


def take_out(keep: list[slice], context_BTD: torch.Tensor, kwargs: dict) -> tuple[torch.Tensor, dict]:
    """The context, and another node's attention mask, without the references that are not acting."""
    context_BTD = torch.cat([context_BTD[:, part] for part in keep], dim=1)
    mask = kwargs.get("attention_mask")
    if mask is not None:
        mask = torch.cat([mask[..., part, :] for part in keep], dim=-2)
        kwargs = {**kwargs, "attention_mask": torch.cat([mask[..., part] for part in keep], dim=-1)}
    return context_BTD, kwargs


def _grid(latent: torch.Tensor, patch: int) -> tuple[int, int]:
    """Rows and columns of tokens; the model pads to whole patches."""
    height, width = latent.shape[-2:]
    return -(-height // patch), -(-width // patch)
