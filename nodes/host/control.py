"""The object that ComfyUI calls before each model call of a conditioning with references.

It takes references that are not acting out of the context, and has a wrapper around that one call put the weights of
the others into attention.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import comfy.patcher_extension
import torch
from comfy.controlnet import ControlBase

from ...redux.control import Reference
from ...redux.influence import Recorder
from ...redux.plan import Active, Layout, StepWeights
from ...redux.schedule import percent_of_sigma
from .graph import influence_wanted
from .override import AttentionCall, running
from .session import Session

if TYPE_CHECKING:
    from .conditioning import Mark

MARK = "redux_references"
PLANS = 16  # sets of weights that are kept: a sampler may alternate between a few (areas, prompt and negative)
log = logging.getLogger(__name__)


def _linear(percent: float) -> float:
    return 1.0 - percent


class ReduxControl(ControlBase):
    """Carries no picture and adds no residuals: it only changes the model call. Other ControlNets chain as usual.

    A ControlNet in the chain reads the references that are acting, at weight 1: ComfyUI hands it the same context, and
    nothing can be weighed inside it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.session = Session()
        self._forget()

    def _forget(self) -> None:
        self.percent_to_sigma: Callable[[float], float] = _linear
        self._weights: dict[Any, StepWeights] = {}
        self._regions: dict[tuple[Reference, Layout], torch.Tensor] = {}

    def weights(self, active: Active, layout: Layout, device: torch.device, track: bool) -> StepWeights:
        """The weights of a call; in most steps those of an earlier one."""
        key = (active, layout, device, track)
        if key not in self._weights:
            if len(self._weights) >= PLANS:
                self._weights.clear()
            self._weights[key] = StepWeights(active, layout, device, track, self._regions)
        return self._weights[key]

    def pre_run(self, model: Any, percent_to_timestep_function: Callable[[float], float]) -> None:
        super().pre_run(model, percent_to_timestep_function)
        self._forget()
        self.percent_to_sigma = percent_to_timestep_function
        self.session.start(record=influence_wanted())

    def get_control(
        self, x_noisy: torch.Tensor, t: torch.Tensor, cond: dict, batched_number: int, transformer_options: dict
    ) -> Any:
        mark: Mark | None = cond.pop(MARK, None)
        if mark is not None:
            if cond["c_crossattn"].shape[1] < mark.length:
                self.session.warn("another node removed the reference's tokens from the conditioning; it has no effect")
            else:
                self._act(mark, t, cond, batched_number, transformer_options)
        if self.previous_controlnet is None:
            return None
        return self.previous_controlnet.get_control(x_noisy, t, cond, batched_number, transformer_options)

    def _act(self, mark: Mark, t: torch.Tensor, cond: dict, chunks: int, transformer_options: dict) -> None:
        recorder = mark.recorder
        recorder.begin(self.session.run)
        active, keep = self._active(mark.references, t)
        if keep is not None:
            cond.update(take_out(keep, cond))
        if self.session.record or any(not reference.is_plain(weight) for reference, weight in active):
            wrapper = WrappedCall(self, active, chunks, recorder if self.session.record else None)
            _wrap(transformer_options, wrapper)

    def _active(self, references: tuple[Reference, ...], t: torch.Tensor) -> tuple[Active, list[slice] | None]:
        """References with their weights at this step, and what stays of the context if that is not all of it."""
        percent = 0.0
        if any(not reference.schedule.is_constant for reference in references):
            percent = percent_of_sigma(float(t.flatten()[0]), self.percent_to_sigma)
        active, keep, start = [], [], 0
        for reference in references:
            weight = reference.strength * reference.schedule.factor(percent)
            if weight > 0:
                active.append((reference, weight))
                keep.append(slice(start, start + reference.length))
            start += reference.length
        return tuple(active), None if len(active) == len(references) else [*keep, slice(start, None)]

    def cleanup(self) -> None:
        self.session.finish()
        self._forget()
        super().cleanup()

    def copy(self) -> ReduxControl:
        control = ReduxControl()
        self.copy_to(control)
        return control

    def deepclone_multigpu(self, load_device: torch.device, autoregister: bool = False) -> ReduxControl:
        control = self.copy()
        control.session = self.session
        if autoregister:
            self.multigpu_clones[load_device] = control
        return control


class WrappedCall:
    """Wraps BaseModel.apply_model for one model call."""

    def __init__(self, control: ReduxControl, active: Active, chunks: int, recorder: Recorder | None) -> None:
        self.control = control
        self.active = active
        self.chunks = chunks
        self.recorder = recorder

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
        assert c_crossattn is not None  # get_control has seen it
        options = transformer_options or {}
        model = executor.class_obj.diffusion_model
        layout = self._layout(x, c_crossattn, getattr(model, "patch_size", 2), kwargs.get("ref_latents") or [])
        weights = self.control.weights(self.active, layout, x.device, self.recorder is not None)
        call = AttentionCall(weights, self.control.session, self.recorder, options, len(_blocks(model)))
        with running(call) as more:
            return executor(x, t, c_concat, c_crossattn, control, {**options, **more}, **kwargs)

    def _layout(self, x: torch.Tensor, context: torch.Tensor, patch: int, pictures: list[torch.Tensor]) -> Layout:
        height, width = x.shape[-2:]
        return Layout(
            text=context.shape[1] - sum(reference.length for reference, _ in self.active),
            height=height,
            width=width,
            patch=patch,
            extra=sum(-(-picture.shape[-2] // patch) * -(-picture.shape[-1] // patch) for picture in pictures),
            batch=x.shape[0],
            chunks=self.chunks,
        )


def _blocks(model: Any) -> Any:
    return getattr(model, "double_blocks", ())


def _wrap(transformer_options: dict, call: WrappedCall) -> None:
    """Add the wrapper to these options alone: nested tables are copied, they may belong to the model."""
    kind = comfy.patcher_extension.WrappersMP.APPLY_MODEL
    wrappers = dict(transformer_options.get("wrappers", {}))
    wrappers[kind] = {**wrappers.get(kind, {}), MARK: [call]}
    transformer_options["wrappers"] = wrappers


def take_out(keep: list[slice], cond: dict[str, Any]) -> dict[str, Any]:
    """The context, and another node's attention mask, without the references that are not acting."""
    kept = {"c_crossattn": torch.cat([cond["c_crossattn"][:, part] for part in keep], dim=1)}
    mask = cond.get("attention_mask")
    if mask is not None:
        mask = torch.cat([mask[..., part, :] for part in keep], dim=-2)
        kept["attention_mask"] = torch.cat([mask[..., part] for part in keep], dim=-1)
    return kept
