"""ComfyUI entry point of Redux Control. Importing it does nothing but hand over."""

WEB_DIRECTORY = "./nodes/web"

if __package__:  # pytest imports this file without a package when it collects the repository's root
    from .nodes import comfy_entrypoint

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
