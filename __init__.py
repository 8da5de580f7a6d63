"""ComfyUI entry point of Redux Control. Importing it does nothing but hand over."""

WEB_DIRECTORY = "./nodes/web"

if __package__:  # pytest imports this file without a package when it collects the repository's root
    from .api import switch_on
    from .nodes import ReduxExtension
    from .nodes import comfy_entrypoint as load_nodes

    async def comfy_entrypoint() -> ReduxExtension:
        switch_on()
        return await load_nodes()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
