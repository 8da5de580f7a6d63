"""The endpoints over several machines: gateways, a broker, and a worker beside each ComfyUI.

Nothing here is imported by ComfyUI or by the endpoints inside it; it needs the packages of the extra `pool`.
"""
