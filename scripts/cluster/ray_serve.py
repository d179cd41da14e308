"""A deployment of `teff serve` in Ray Serve: each replica owns one `teff` process and passes requests on to it.

    pip install "ray[serve]" httpx
    TEFF=/usr/local/bin/teff MODEL=/models/model.gguf serve run scripts/cluster/ray_serve.py:app

Ray adds and removes replicas by the requests under way, and starts anew what does not answer. NOT RUN so far.
"""

import os
import re
import subprocess
import threading

import httpx
from fastapi import FastAPI, Request
from ray import serve
from starlette.background import BackgroundTask
from starlette.responses import StreamingResponse

api = FastAPI()
# Headers of one connection, which are not passed on.
OWN = {"connection", "content-length", "host", "keep-alive", "transfer-encoding", "upgrade"}


@serve.deployment(
    ray_actor_options={"num_cpus": 4},
    max_ongoing_requests=32,
    autoscaling_config={"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 8},
    health_check_period_s=5,
    health_check_timeout_s=5,
    graceful_shutdown_timeout_s=40,
)
@serve.ingress(api)
class Teff:
    def __init__(self):
        command = [os.environ.get("TEFF", "teff"), "serve", "-m", os.environ["MODEL"], "--port", "0", "--threads", "4"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        found = (re.search(r"listening at (http://\S+)", line) for line in self.process.stderr)
        url = next((match[1] for match in found if match), None)
        if url is None:
            raise RuntimeError(f"{command} does not listen")
        # Whoever does not read what is written blocks the writer.
        threading.Thread(target=self.process.stderr.read, daemon=True).start()
        self.client = httpx.AsyncClient(base_url=url, timeout=None)

    async def check_health(self):
        (await self.client.get("/health", timeout=3)).raise_for_status()

    @api.api_route("/{path:path}", methods=["GET", "POST"])
    async def pass_on(self, request: Request):
        headers = [(name, value) for name, value in request.headers.items() if name not in OWN]
        asked = self.client.build_request(
            request.method, request.url.path, params=request.query_params, headers=headers, content=await request.body()
        )
        answer = await self.client.send(asked, stream=True)
        told = {name: value for name, value in answer.headers.items() if name not in OWN}
        # Closing the answer, also when the client leaves, cancels the request in teff.
        return StreamingResponse(answer.aiter_raw(), answer.status_code, told, background=BackgroundTask(answer.aclose))

    def __del__(self):
        self.process.terminate()
        self.process.wait()


app = Teff.bind()
