"""What Replicate's Python client 2.x does, against a server of one's own: URL PICTURE PICTURE_URL."""

import json
import os
import sys
from importlib import metadata
from pathlib import Path

url, picture, address = sys.argv[1:]
os.environ |= {"REPLICATE_BASE_URL": f"{url}/v1", "REPLICATE_API_TOKEN": os.environ["KEY"]}

import replicate  # noqa: E402

client = replicate.Replicate()
client.poll_interval = 0.05
OWNER, NAME = "black-forest-labs", "flux-redux-dev"
MODEL = f"{OWNER}/{NAME}"
VERSION = "96b56814e57dfa601f3f524f82a2b336ef49012cda68828cb37cde66f481b7cb"
small = {"aspect_ratio": "21:9", "megapixels": "0.25", "num_inference_steps": 1, "disable_safety_checker": True}
from_web = {**small, "redux_image": address}
told = {"version": metadata.version("replicate")}

with open(picture, "rb") as file:
    (output,) = client.run(MODEL, input={**small, "redux_image": file})
told["run"] = len(output.read())
(output,) = client.run(f"{MODEL}:{VERSION}", input=from_web)
told["run_version"] = len(output.read())
redux = replicate.use(MODEL)
told["use"] = [Path(path).stat().st_size for path in redux(**from_web)]

prediction = client.predictions.create(version=VERSION, input=from_web)
told["create"] = prediction.status
told["wait"] = client.predictions.wait(prediction.id).status
told["get"] = client.predictions.get(prediction_id=prediction.id).status
slow = client.models.predictions.create(
    model_owner=OWNER, model_name=NAME, input={**from_web, "num_inference_steps": 50, "megapixels": "1"}
)
client.predictions.cancel(prediction_id=slow.id)
told["cancel"] = client.predictions.wait(slow.id).status
ids = [item.id for item in client.predictions.list()]
told["list"] = ids[:2] == [slow.id, prediction.id]
told["stream"] = [str(event) for event in replicate.use(MODEL, streaming=True)(**from_web)]

file = client.files.create(content=Path(picture), metadata={"mine": "yes"})
told["file"] = client.files.get(file_id=file.id).metadata
told["files"] = file.id in [item.id for item in client.files.list()]
client.files.delete(file_id=file.id)
told["deleted"] = file.id not in [item.id for item in client.files.list()]
told["model"] = client.models.get(model_owner=OWNER, model_name=NAME).latest_version.id == VERSION
told["versions"] = len(client.models.versions.list(model_owner=OWNER, model_name=NAME).results)
told["secret"] = client.webhooks.default.secret.get().key.startswith("whsec_")
try:
    client.run(MODEL, input={**from_web, "num_outputs": 9})
except replicate.APIStatusError as error:
    told["refused"] = [error.status_code, "num_outputs" in str(error)]
print(json.dumps(told))
