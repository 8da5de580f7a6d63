"""A job's way: caller, gateway, RabbitMQ, worker, host, and its picture back."""

from __future__ import annotations

import io

from caller import REPLICATE, prediction
from PIL import Image
from scenes import api_of, ask, expected, finish, wait_for_hosts, wait_until

from tools.pool_parts import LocalPool


def test_a_job_comes_back_with_its_picture(pool: LocalPool) -> None:
    """Through both vendors' routes, and it is the very picture that the host alone makes."""
    pool.add_host("a")
    pool.add_gateway()
    api = api_of(pool)
    wait_for_hosts(api)
    done = finish(api, ask(api, 7))
    assert done["status"] == "completed", done
    assert api.get(done["outputs"][0]).body == expected(7)
    answer = api.post(REPLICATE, prediction(num_outputs=2), headers={"Prefer": "wait"}).json
    assert answer["status"] == "succeeded" and len(answer["output"]) == 2
    assert [Image.open(io.BytesIO(api.get(link).body)).format for link in answer["output"]] == ["WEBP", "WEBP"]
    wait_until(lambda: not list((pool.folder / "files" / "inputs").iterdir()))
