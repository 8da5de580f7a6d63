"""One way to look at a graph and to change it, whichever form it was saved in.

A *wire* is what runs into an input; it can be taken off one input and plugged into another without losing where it
comes from. Nodes that only pass something on (reroutes, KJNodes' Set and Get) are looked through.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

Id = Any  # numbers in the page's form, strings in API form
Wire = Any
WIRED = object()  # instead of a widget's value: it comes by wire, from a node that is no constant


def short(text: str, longest: int) -> str:
    """What a sentence repeats of a file: one line, cut where it is longer."""
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


class DamagedError(ValueError):
    """What a graph says in one place does not fit what it says in another; without a full stop."""


class Graph(ABC):
    """A copy that may be changed."""

    @abstractmethod
    def ids(self) -> list[Id]: ...

    @abstractmethod
    def kind(self, node: Id) -> str:
        """The class of a node; "" for the border of a subgraph."""

    @abstractmethod
    def name(self, node: Id) -> str:
        """For people: node 41 "Apply Style Model"."""

    @abstractmethod
    def mode(self, node: Id) -> int:
        """How a node runs, as the page counts it: 0 always, 2 muted, 4 bypassed."""

    @abstractmethod
    def value(self, node: Id, widget: str) -> Any:
        """What a widget of an old node says, its default, or WIRED. A wire from a constant counts as its value."""

    @abstractmethod
    def wired(self, node: Id, name: str) -> bool: ...

    @abstractmethod
    def origin(self, node: Id, name: str) -> tuple[Id, int] | None:
        """Node and output that an input is fed from."""

    @abstractmethod
    def ends(self, node: Id, output: int) -> list[tuple[Id, str]]:
        """Nodes and inputs that an output feeds."""

    @abstractmethod
    def take(self, node: Id, name: str) -> Wire | None:
        """Take a wire off an input."""

    @abstractmethod
    def plug(self, wire: Wire, node: Id, name: str) -> None: ...

    @abstractmethod
    def connect(self, source: Id, output: int, node: Id, name: str) -> None: ...

    @abstractmethod
    def drop(self, wire: Wire) -> None:
        """Throw a wire away, and what did nothing but pass it on."""

    @abstractmethod
    def become(self, node: Id, kind: str, values: Mapping[str, Any]) -> list[str]:
        """Make a node one of a new kind, in its place. Wires stay in inputs that the new kind has by the same name;
        the names of other inputs that had one are returned, and their wires dropped."""

    @abstractmethod
    def add(self, kind: str, values: Mapping[str, Any], beside: Id) -> Id: ...

    @abstractmethod
    def remove(self, node: Id) -> None: ...

    @abstractmethod
    def retype(self, node: Id, output: int, kind: str) -> None:
        """What an output's wires carry, where the form writes it down."""
