"""What WaveSpeedAI's Python client does, against a server of one's own: URL PICTURE PICTURE_URL."""

import json
import os
import sys

import wavespeed

url, picture, address = sys.argv[1:]
client = wavespeed.Client(api_key=os.environ["KEY"], base_url=url)
MODEL = "wavespeed-ai/flux-redux-dev"
small = {"size": "256*256", "num_inference_steps": 1, "enable_safety_checker": False}
from_web = {**small, "image": address}
told = {}

uploaded = client.upload(picture)
told["run"] = client.run(MODEL, {**small, "image": uploaded}, poll_interval=0.05)["outputs"]
with open(picture, "rb") as file:
    told["opened"] = client.upload(file).startswith(url)
told["sync"] = client.run(MODEL, from_web, enable_sync_mode=True)["outputs"]
ended = client.run_no_throw(MODEL, from_web, poll_interval=0.05)
told["no_throw"] = [len(ended["outputs"]), ended["status"]]
told["get"] = client.get_result(ended["task_id"])["data"]["status"]
told["refused"] = client.run_no_throw(MODEL, {**from_web, "num_images": 9})["error"]
print(json.dumps(told))
