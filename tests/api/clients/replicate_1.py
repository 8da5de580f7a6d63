"""What Replicate's Python client 1.x does, against a server of one's own: URL PICTURE PICTURE_URL."""

import asyncio
import json
import os
import sys
from importlib import metadata
from pathlib import Path

import replicate

url, picture, address = sys.argv[1:]
client = replicate.Client(api_token=os.environ["KEY"], base_url=url)
client.poll_interval = 0.05
MODEL = "black-forest-labs/flux-redux-dev"
VERSION = "96b56814e57dfa601f3f524f82a2b336ef49012cda68828cb37cde66f481b7cb"
small = {"aspect_ratio": "21:9", "megapixels": "0.25", "num_inference_steps": 1, "disable_safety_checker": True}
from_web = {**small, "redux_image": address}
told = {"version": metadata.version("replicate")}

with open(picture, "rb") as file:
    (output,) = client.run(MODEL, input={**small, "redux_image": file})
told["run"] = len(output.read())
told["run_path"] = len(client.run(MODEL, input={**small, "redux_image": Path(picture)}))
(output,) = client.run(f"{MODEL}:{VERSION}", input=from_web)
told["run_version"] = len(output.read())
(output,) = asyncio.run(client.async_run(MODEL, input=from_web))
told["async_run"] = len(output.read())

prediction = client.predictions.create(VERSION, from_web)
told["create"] = prediction.status
prediction.wait()
told["wait"] = prediction.status
told["get"] = client.predictions.get(prediction.id).status
slow = client.models.predictions.create(MODEL, input={**from_web, "num_inference_steps": 50, "megapixels": "1"})
slow.cancel()
slow.wait()
told["cancel"] = slow.status
told["list"] = [item.id for item in client.predictions.list()][:2] == [slow.id, prediction.id]

events = list(client.stream(MODEL, input=from_web))
told["stream"] = sorted({event.event.value for event in events})
told["streamed"] = [str(event.data) for event in events if event.event.value == "output"]

file = client.files.create(picture, metadata={"mine": "yes"})
told["file"] = client.files.get(file.id).metadata
told["files"] = file.id in [item.id for item in client.files.list()]
told["deleted"] = client.files.delete(file.id)
model = client.models.get(MODEL)
told["model"] = model.latest_version.id == VERSION
told["versions"] = len(model.versions.list().results)
told["secret"] = client.webhooks.default.secret().key.startswith("whsec_")
told["account"] = client.accounts.current().type
try:
    client.run(MODEL, input={**from_web, "num_outputs": 9})
except replicate.exceptions.ReplicateError as error:
    told["refused"] = [error.status, "num_outputs" in error.detail]
try:
    client.deployments.predictions.create("some/deployment", input=from_web)
except replicate.exceptions.ReplicateError as error:
    told["deployment"] = [error.status, "no deployments" in error.detail]
print(json.dumps(told))
