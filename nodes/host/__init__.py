"""The only place that knows ComfyUI's internals: patchers, devices, conditioning, the control object, its queue."""
