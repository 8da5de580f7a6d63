"""What the graph that is being run contains."""

from __future__ import annotations

import sys

INFLUENCE = "ReduxInfluence"


def influence_wanted() -> bool:
    """Whether a graph that runs now draws an influence map, so that sampling has to record.

    Read from the server's queue, because neither the cache key of a node nor its inputs know what is connected behind
    it. Without a server (a script that calls the nodes) there is no queue, and nothing is recorded.
    """
    server = getattr(sys.modules.get("server"), "PromptServer", None)
    queue = getattr(getattr(server, "instance", None), "prompt_queue", None)
    running = list(queue.currently_running.values()) if queue else []
    return any(node.get("class_type") == INFLUENCE for item in running for node in item[2].values())
