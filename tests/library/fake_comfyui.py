"""A folder that passes for a ComfyUI, for tests of tools."""

from __future__ import annotations

from pathlib import Path

# Answers as ComfyUI does while it starts up, and no more; `--mode` makes it fail in the ways that ComfyUI may.
FAKE_MAIN = """
import http.server, sys, time
port, mode = int(sys.argv[sys.argv.index("--port") + 1]), sys.argv[-1]
if mode == "die":
    print("loading")
    raise ImportError("no module of that kind")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        found = self.path == "/system_stats" or mode != "no-pack"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"found": true}' if found else b"{}")
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("127.0.0.1", port), Handler)
print("listening", flush=True)
server.serve_forever()
"""


def make_comfyui(path: Path, version: str = "0.30.0", main: str = FAKE_MAIN) -> Path:
    path.mkdir(parents=True)
    (path / "main.py").write_text(main)
    (path / "folder_paths.py").write_text("")
    (path / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    (path / "models" / "clip_vision").mkdir(parents=True)
    return path
