"""The object that ComfyUI calls before each model call of a conditioning with references.

It puts the tokens of acting references before the text, and has a wrapper around that one call put their weights into
attention.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import comfy.patcher_extension
import torch
from comfy.controlnet import ControlBase, ControlNet

from ...redux.reference import Reference, Weight
from ...redux.schedule import percent_of_sigma
from ...redux.step_weights import Layout, StepWeights
from .call import Acting, WrappedCall
from .context import Row, extend_mask, join_tokens
from .keep import Keeper, KeptCall, memory_of
from .latent import image_numbers
from .mark import MARK, Chunks, act_alike
from .model_name import check_presets
from .prompt_graph import executing_node, influence_wanted
from .session import Session
from .swept import check_sweep
from .tile import Tile, Tiles, Window, draw_hint, rows_of

PLANS = 16  # sets of weights that are kept: a sampler may alternate between a few (areas, prompt and negative)
_CONTROLS: weakref.WeakSet[ReduxControl] = weakref.WeakSet()


def _linear(percent: float) -> float:
    return 1.0 - percent


def control_for(references: tuple[Reference, ...], previous: ControlBase | None) -> ReduxControl:
    """A control for these references; one and the same for all that act alike, while it lives.

    ComfyUI joins entries in one model call only if they have the same control object.
    """
    for control in list(_CONTROLS):
        untouched = control.cond_hint_original is control.hint and control.previous_controlnet is previous
        if untouched and act_alike(control.references, references):
            return control
    control = ReduxControl(references)
    control.set_previous_controlnet(previous)
    _CONTROLS.add(control)
    return control


class ReduxControl(ControlNet):
    """Adds no residuals: it only changes the model call. Its picture are the regions. Other ControlNets chain as usual.

    Packs that cut the latent into tiles look for ControlNets and cut their pictures alike, so it is one for them.
    A ControlNet in the chain reads the references that are acting, at weight 1: ComfyUI hands it the same context, and
    nothing can be weighed inside it.
    """

    def __init__(self, references: tuple[Reference, ...]) -> None:
        super().__init__(compression_ratio=1, load_device=torch.device("cpu"))
        self.control_model, self.device = SimpleNamespace(dtype=torch.float32), torch.device("cpu")  # of the hint
        self.upscale_algorithm = "area"
        self.references = references
        self.hint = draw_hint(references)
        self.cond_hint_original: torch.Tensor | None = self.hint
        self.cond_hint: torch.Tensor | None = None
        self.session = Session()
        self._used: torch.Tensor | None = None  # the hint that was read last
        self._forget()

    def _forget(self) -> None:
        self.percent_to_sigma: Callable[[float], float] = _linear
        self.blocks = (0, 0)
        self._weights: dict[Any, StepWeights] = {}
        self._regions: dict[tuple[Reference, Layout], torch.Tensor] = {}
        self._placed: dict[Any, tuple[torch.Tensor, torch.Tensor]] = {}
        self._keeper = Keeper(self.session, sum(self.blocks))
        self._tiles = Tiles(self.hint)

    def get_models(self) -> list[Any]:
        return ControlBase.get_models(self)

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        """ComfyUI leaves so much memory free beside the model."""
        return int(super().inference_memory_requirements(dtype)) + memory_of(self.references, dtype.itemsize)

    def weights(self, acting: Acting, layout: Layout, device: torch.device, track: bool, kept: bool) -> StepWeights:
        """The weights of a call; in most steps those of an earlier one."""
        key = (acting.active, acting.pictures, layout, device, track, kept)
        if key not in self._weights:
            if len(self._weights) >= PLANS:
                self._weights.clear()
            self._weights[key] = StepWeights(acting.active, layout, device, track, self._regions, kept, acting.pictures)
        return self._weights[key]

    def pre_run(self, model: Any, percent_to_timestep_function: Callable[[float], float]) -> None:
        super().pre_run(model, percent_to_timestep_function)
        self._forget()
        if self.cond_hint is self._used:  # left by a sampling that was interrupted
            self.cond_hint = None
        self.percent_to_sigma = percent_to_timestep_function
        flux = getattr(model, "diffusion_model", None)
        self.blocks = len(getattr(flux, "double_blocks", ())), len(getattr(flux, "single_blocks", ()))
        self._keeper = Keeper(self.session, sum(self.blocks))
        self.session.start(influence_wanted(), executing_node(), image_numbers())
        try:
            check_presets(self.references, flux)
        except ValueError as error:
            self.session.refuse(str(error))

    def get_control(
        self, x_noisy: torch.Tensor, t: torch.Tensor, cond: dict, batched_number: int, transformer_options: dict
    ) -> Any:
        chunks: Chunks | None = cond.pop(MARK, None)
        if chunks is not None:
            self._act(chunks, x_noisy, t, cond, transformer_options)
        if self.previous_controlnet is None:
            return None
        return self.previous_controlnet.get_control(x_noisy, t, cond, batched_number, transformer_options)

    def _act(self, chunks: Chunks, x: torch.Tensor, t: torch.Tensor, cond: dict, transformer_options: dict) -> None:
        for chunk in chunks:
            chunk.mark.recorder.begin(self.session.run, self.session.node)
        references = chunks[0].mark.references
        check_sweep(references, chunks[0].images, self.session)
        weights = self._step_weights(references, t)
        pictures = [index for index, reference in enumerate(references) if reference.is_picture]
        acting = [index for index, weight in enumerate(weights) if weight != 0 and index not in pictures]
        active = tuple(references[index] for index in acting)
        tile = Tile(self._tiles.find_hint(self.cond_hint, self.cond_hint_original), Window.of(transformer_options, x))
        rows = rows_of(chunks, len(x), tile.window, self.session.images)
        kept = self._keep(tile, chunks, active, x, t, cond, transformer_options)
        if acting and (kept is None or kept.full):
            self._extend(cond, chunks, rows, acting, x.device)
        seen, row_masks = self._seen(tile, chunks, rows, x)
        weighted, weighed = (tuple((seen[index], weights[index]) for index in group) for group in (acting, pictures))
        if self.session.record or kept or any(not one.is_plain(weight) for one, weight in (*weighted, *weighed)):
            self.session.planned += 1
            acts = Acting(weighted, active, chunks, tuple(rows), row_masks, kept, weighed)
            _wrap(transformer_options, WrappedCall(self, acts, x, cond["c_crossattn"]))

    def _seen(self, tile: Tile, chunks: Chunks, rows: list[Row], x: torch.Tensor) -> tuple[tuple[Reference, ...], bool]:
        """The references as the call's part of the picture has them, and whether their masks are for its rows."""
        self._used = tile.hint
        if any(chunk.area and not chunk.canvas for chunk in chunks):
            self.session.warn("this ComfyUI does not tell where an area lies, so regions are stretched over areas")
        row_masks = tile.hint is not None and tile.hint is self.cond_hint and len(tile.hint) == len(x) > 1
        if "get_control" in vars(self):
            # A pack that asks for each tile itself, and where it finds a hint takes what it kept, of earlier samplings.
            self.cond_hint = None
        return self._tiles.seen(chunks, rows, (x.shape[2], x.shape[3]), tile, row_masks)

    def _keep(
        self,
        tile: Tile,
        chunks: Chunks,
        active: tuple[Reference, ...],
        x: torch.Tensor,
        t: torch.Tensor,
        cond: dict,
        transformer_options: dict,
    ) -> KeptCall | None:
        """How the keys of the active references are kept in this call, if they are."""
        if not active or cond.get("attention_mask") is not None:
            return None
        entries = tuple((chunk.mark, chunk.images, chunk.area) for chunk in chunks)
        if tile.hint is not None and not self._tiles.remember(tile.hint):
            self._keeper.give_up("the picture is cut into ever other tiles")
        key = (entries, active, id(tile.hint), tile.window, x.shape, cond["c_crossattn"].shape)
        return self._keeper.call(key, active, x, t, transformer_options)

    def _step_weights(self, references: Sequence[Reference], t: torch.Tensor) -> list[Weight]:
        """The weight of each reference at this step."""
        percent = 0.0
        if any(not each.is_constant for reference in references for each in reference.schedules):
            percent = percent_of_sigma(float(t.flatten()[0]), self.percent_to_sigma)
        return [reference.weight(percent) for reference in references]

    def _extend(self, cond: dict, chunks: Chunks, rows: list[Row], acting: list[int], device: torch.device) -> None:
        """Put the tokens of acting references before the text, and make room for them in another node's mask."""
        context_RTD = cond["c_crossattn"].to(device)
        cond["c_crossattn"] = join_tokens(
            context_RTD, chunks, rows, acting, lambda tokens: self._place(tokens, context_RTD)
        )
        if cond.get("attention_mask") is not None:
            length = cond["c_crossattn"].shape[1] - context_RTD.shape[1]
            cond["attention_mask"] = extend_mask(cond["attention_mask"], length)

    def _place(self, tokens: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Tokens on the device and in the dtype of the context, kept there for the sampling."""
        key = (id(tokens), like.device, like.dtype)
        if key not in self._placed:
            self._placed[key] = (tokens, tokens.to(like))  # the first keeps the id its own
        return self._placed[key][1]

    def cleanup(self) -> None:
        self.session.finish()
        self._forget()
        super().cleanup()

    def copy(self) -> ReduxControl:
        control = ReduxControl(self.references)
        self.copy_to(control)
        return control

    def deepclone_multigpu(self, load_device: torch.device, autoregister: bool = False) -> ReduxControl:
        control = self.copy()
        control.session = self.session
        if autoregister:
            self.multigpu_clones[load_device] = control
        return control


def _wrap(transformer_options: dict, call: WrappedCall) -> None:
    """Add the wrapper to these options alone: nested tables are copied, they may belong to the model."""
    kind = comfy.patcher_extension.WrappersMP.APPLY_MODEL
    wrappers = dict(transformer_options.get("wrappers", {}))
    wrappers[kind] = {**wrappers.get(kind, {}), MARK: [call]}
    transformer_options["wrappers"] = wrappers
