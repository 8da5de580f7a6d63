"""What `make` runs: the environment, a ComfyUI host, a headless server, the demo. The pack itself never imports it."""
