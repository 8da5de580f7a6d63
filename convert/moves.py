"""The changes to one graph: old nodes out, ours into their places.

Where the vision tower's and the projector's files are known, a chain becomes Load Redux -> Encode Reference -> Apply
Redux. Where they are not (another loader, a name by wire, a subgraph's border), or where something else reads the same
CLIP Vision Encode, ComfyUI's nodes stay and Reference from CLIP Vision goes between them and Apply Redux.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .graph import WIRED, Graph, Id
from .meaning import Meaning, read_apply, read_crop
from .specs import APPLY, ENCODE, OLD, OLD_OUTPUTS, STYLE_LOADER, VISION_LOADER

AVERAGE = "ConditioningAverage"
HALF_PIXEL = "the centre of a picture that is not square is cut up to half a pixel elsewhere (--keep-encoder is exact)"


@dataclass
class Moved:
    """converted: sentences on what was replaced. notes: what was not, or not exactly."""

    converted: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    nodes: set[Id] = field(default_factory=set)


@dataclass
class Chain:
    """One old node that puts a reference into a conditioning, and where its parts come from.

    encode, vision, style: node ids of CLIP Vision Encode and the two loaders; None where another node stands.
    """

    node: Id
    kind: str
    meaning: Meaning
    encode: Id | None = None
    vision: Id | None = None
    style: Id | None = None
    files: tuple[str, str] | None = None


class Mover:
    """Converts one graph in place; `move` does it once. keep_encoder: see `convert`."""

    def __init__(self, graph: Graph, keep_encoder: bool = False) -> None:
        self.graph, self.keep_encoder, self.moved = graph, keep_encoder, Moved()
        self.loaders: dict[tuple[tuple[str, str], int], Id] = {}  # by files and mode: a muted one loads for nobody
        self.encoded: set[Id] = set()
        self.old_loaders: set[Id] = set()

    def move(self) -> Moved:
        chains = [self._read(node) for node in self.graph.ids() if self.graph.kind(node) in APPLY]
        ready = [chain for chain in chains if not self._refuse(chain)]
        self.whole = {chain.node: self._is_whole(chain, ready) for chain in ready}
        for chain in ready:
            name = self.graph.name(chain.node)
            notes = [*chain.meaning.notes, *self._neighbours(chain, chains)]
            if self.whole[chain.node]:
                self._replace_whole(chain)
            else:
                self._keep_core(chain)
            self.moved.nodes.add(chain.node)
            self.moved.converted.append(f"{name} is now Apply Redux.")
            self.moved.notes += [f"{name}: {note}." for note in notes]
        for loader in self.old_loaders:
            if self.graph.kind(loader) in (VISION_LOADER, STYLE_LOADER) and not self.graph.ends(loader, 0):
                self.graph.remove(loader)
        return self.moved

    def _read(self, node: Id) -> Chain:
        graph, kind = self.graph, self.graph.kind(node)
        chain = Chain(node, kind, Meaning())
        encode = None if APPLY[kind].from_image else self._of_kind(node, "clip_vision_output", ENCODE)
        reader = node if APPLY[kind].from_image else encode
        chain.encode, chain.style = encode, self._of_kind(node, "style_model", STYLE_LOADER)
        chain.vision = None if reader is None else self._of_kind(reader, "clip_vision", VISION_LOADER)
        names = [self._file(chain.vision, "clip_name"), self._file(chain.style, "style_model_name")]
        if all(names):
            chain.files = names[0], names[1]
        values = {name: graph.value(node, name) for name in OLD[kind].widgets}
        if graph.wired(node, "strength"):  # even a constant's wire stays, for the user to turn
            values["strength"] = WIRED
        chain.meaning = read_apply(kind, values, names[0])
        return chain

    def _of_kind(self, node: Id, name: str, kind: str) -> Id | None:
        origin = self.graph.origin(node, name)
        return origin[0] if origin is not None and self.graph.kind(origin[0]) == kind else None

    def _file(self, loader: Id | None, widget: str) -> str:
        value = None if loader is None else self.graph.value(loader, widget)
        return value if isinstance(value, str) else ""

    def _refuse(self, chain: Chain) -> bool:
        """Note why a node cannot be replaced."""
        why = chain.meaning.refused
        for index, output in enumerate(OLD_OUTPUTS.get(chain.kind, ())[1:], 1):
            readers = self.graph.ends(chain.node, index)
            if readers and not why:
                why = f"its output {output} goes to {self.graph.name(readers[0][0])}, and Apply Redux has none"
        exact = chain.meaning.encode.get("fit") == "crop" and not self.graph.wired(chain.node, "mask")
        if not why and APPLY[chain.kind].from_image and chain.files is None and not exact:
            why = "the files of its vision tower and projector are not known, and its mode needs Load Redux"
        if why:
            self.moved.notes.append(f"{self.graph.name(chain.node)} stays as it is: {why}.")
        return bool(why)

    def _is_whole(self, chain: Chain, ready: list[Chain]) -> bool:
        """Whether our three nodes can stand for the chain: files known, no other reader of its CLIP Vision Encode."""
        if chain.files is None:
            return False
        if chain.encode is None:
            return APPLY[chain.kind].from_image
        if self.keep_encoder or self.graph.value(chain.encode, "crop") is WIRED:
            return False
        files = {other.node: other.files for other in ready if other.encode == chain.encode}
        return all(files.get(node) == chain.files for node, _ in self.graph.ends(chain.encode, 0))

    def _neighbours(self, chain: Chain, chains: list[Chain]) -> list[str]:
        """What stands before or behind a node and acts otherwise now."""
        notes = []
        origin = self.graph.origin(chain.node, "conditioning")
        before = next((other for other in chains if origin is not None and other.node == origin[0]), None)
        if before is not None and self._biased(chain):
            notes.append("attn_bias in a chain also damped what the reference before it reads of this one; here "
                         "references read each other undamped")  # fmt: skip
        for node, _ in self.graph.ends(chain.node, 0):
            if self.graph.kind(node) == AVERAGE:
                notes.append(f"{self.graph.name(node)} weakened the reference and now averages the texts alone; "
                             "lower the strength instead")  # fmt: skip
        return notes

    def _biased(self, chain: Chain) -> bool:
        if chain.kind != "StyleModelApply" or self.graph.value(chain.node, "strength_type") != "attn_bias":
            return False
        return self.graph.value(chain.node, "strength") not in (1, 1.0)

    # Our three nodes.

    def _replace_whole(self, chain: Chain) -> None:
        graph = self.graph
        assert chain.files is not None
        loader = self._loader(chain)
        if chain.encode is None:
            self._encode_anew(chain, loader)
            return
        if chain.encode not in self.encoded:
            self._encode_in_place(chain.encode, loader)
        wire = graph.take(chain.node, "clip_vision_output")
        self._finish(chain, wire, None)
        graph.retype(chain.encode, 0, "REDUX_TOKENS")

    def _loader(self, chain: Chain) -> Id:
        """Load Redux for the chain's files, in the place of Load CLIP Vision when all that read it are replaced."""
        graph, files, vision = self.graph, chain.files, chain.vision
        assert files is not None and vision is not None
        self.old_loaders |= {vision, chain.style}
        key = files, graph.mode(vision)
        if key not in self.loaders:
            values = {"vision_name": files[0], "redux_name": files[1]}
            readers = {node for node, _ in graph.ends(vision, 0)}
            if graph.kind(vision) == VISION_LOADER and all(self._will_read(node, files) for node in readers):
                self._note_lost(vision, graph.name(vision), graph.become(vision, "ReduxLoader", values))
                graph.retype(vision, 0, "REDUX_MODEL")
                self.loaders[key] = vision
            else:
                self.loaders[key] = graph.add("ReduxLoader", values, vision)
        return self.loaders[key]

    def _will_read(self, node: Id, files: tuple[str, str]) -> bool:
        """Whether a reader of Load CLIP Vision reads Load Redux with these files afterwards."""
        if node in self.encoded:
            return True
        if self.graph.kind(node) == ENCODE:
            readers = [end for end, _ in self.graph.ends(node, 0)]
            return bool(readers) and all(self._becomes(end, files) for end in readers)
        return self._becomes(node, files)

    def _becomes(self, node: Id, files: tuple[str, str]) -> bool:
        return self.whole.get(node, False) and self._read(node).files == files

    def _feed(self, node: Id, wire: Any, loader: Id) -> None:
        """Load Redux into Encode Reference: by the old wire where Load Redux took its source's place."""
        graph = self.graph
        if wire is not None:
            graph.plug(wire, node, "redux")
            origin = graph.origin(node, "redux")
            if origin is not None and origin[0] == loader:
                return
            taken = graph.take(node, "redux")
            assert taken is not None
            graph.drop(taken)
        graph.connect(loader, 0, node, "redux")

    def _encode_in_place(self, encode: Id, loader: Id) -> None:
        graph, name = self.graph, self.graph.name(encode)
        values = read_crop(graph.value(encode, "crop"))
        if values["fit"] == "crop":
            self.moved.notes.append(f"{name}: {HALF_PIXEL}.")
        wire = graph.take(encode, "clip_vision")
        self._note_lost(encode, name, graph.become(encode, "ReduxEncode", values))
        self._feed(encode, wire, loader)
        self.encoded.add(encode)
        self.moved.nodes.add(encode)

    def _encode_anew(self, chain: Chain, loader: Id) -> None:
        """ReduxAdvanced read the picture itself: an Encode Reference takes over what fed it."""
        graph = self.graph
        encode = graph.add("ReduxEncode", chain.meaning.encode, chain.node)
        self._feed(encode, graph.take(chain.node, "clip_vision"), loader)
        for name in ("image", "mask"):
            wire = graph.take(chain.node, name)
            if wire is not None:
                graph.plug(wire, encode, name)
        self._finish(chain, None, encode)

    # ComfyUI's encoder stays.

    def _keep_core(self, chain: Chain) -> None:
        graph = self.graph
        tokens = graph.add("ReduxFromClipVision", {}, chain.node)
        style = graph.take(chain.node, "style_model")
        if style is not None:
            graph.plug(style, tokens, "style_model")
        if APPLY[chain.kind].from_image:
            encode = graph.add(ENCODE, {"crop": "center"}, chain.node)
            for name in ("clip_vision", "image"):
                wire = graph.take(chain.node, name)
                if wire is not None:
                    graph.plug(wire, encode, name)
            graph.connect(encode, 0, tokens, "clip_vision_output")
        else:
            wire = graph.take(chain.node, "clip_vision_output")
            if wire is not None:
                graph.plug(wire, tokens, "clip_vision_output")
        self._finish(chain, None, tokens)

    def _finish(self, chain: Chain, wire: Any, source: Id | None) -> None:
        """The old node becomes Apply Redux, fed by an old wire or by a new node, through Pool Reference if need be."""
        graph, name = self.graph, self.graph.name(chain.node)
        style = graph.take(chain.node, "style_model")
        if style is not None:
            graph.drop(style)
        self._note_lost(chain.node, name, graph.become(chain.node, "ReduxApply", chain.meaning.apply))
        target = chain.node
        if chain.meaning.pool is not None:
            side = chain.meaning.pool
            target = graph.add("ReduxPool", {"rows": side, "columns": side}, chain.node)
            graph.connect(target, 0, chain.node, "tokens")
        if wire is not None:
            graph.plug(wire, target, "tokens")
        elif source is not None:
            graph.connect(source, 0, target, "tokens")

    def _note_lost(self, node: Id, name: str, lost: list[str]) -> None:
        for widget in lost:
            self.moved.notes.append(f"{name}: {widget} came by wire; its present value is set instead.")
