#!/usr/bin/env python3
"""N replicas of `teff serve` behind LiteLLM's router, as one address that speaks OpenAI's API.

    scripts/cluster/cluster.py target/release/teff smollm2:135m [--replicas 2] [--port 4000] [-- ARGS OF teff serve]

The router goes to a folder of its own, target/cluster (pip and uv fetch it the first time). Requests with the header
`x-litellm-session-id` stay with the replica that has the prefix of their session; others go to any. A replica that
fails is left out for some seconds, and what it had not begun to answer is asked of another. The router wants a key:
LITELLM_MASTER_KEY, or one that is made and told. Ctrl-C ends everything; running requests are finished first.
"""

import argparse
import json
import os
import pathlib
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "target/cluster"
PYTHON = FOLDER / "venv/bin/python"
LITELLM = "litellm[proxy]==1.108.7"
PATIENCE_S = 300


def install():
    """The router, in a folder of its own. pip alone takes minutes to choose its versions, uv seconds."""
    if (PYTHON.parent / "litellm").exists():
        return
    print("fetching the router", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", FOLDER / "venv"], check=True)
    subprocess.run([PYTHON, "-m", "pip", "install", "--quiet", "uv"], check=True)
    subprocess.run([PYTHON, "-m", "uv", "pip", "install", "--quiet", "--python", PYTHON, LITELLM], check=True)


class Replica:
    """A `teff serve` process."""

    def __init__(self, program, model, args=(), port=0):
        self.command = [program, "serve", "-m", model, "--no-log", *args]
        self.start(port)

    def start(self, port):
        command = [*self.command, "--port", str(port)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if found := re.search(r"listening at (http://\S+?:(\d+))$", line.strip()):
                self.url, self.port = found[1], int(found[2])
                # Whoever does not read what is written blocks the writer.
                threading.Thread(target=self.process.stderr.read, daemon=True).start()
                return
        raise SystemExit(f"{command} does not listen")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.terminate()
        self.process.wait()

    def model(self):
        return read_json(f"{self.url}/v1/models")["data"][0]

    def figure(self, name):
        """The sum of a figure over its labels."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as response:
            lines = response.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if re.match(rf"{name}[ {{]", line))


def read_json(url):
    with urllib.request.urlopen(url, timeout=10) as response:
        return json.load(response)


def router_config(replicas, model):
    """What LiteLLM is told: YAML, of which JSON is a part."""
    name, context = model["id"], model["max_model_len"]
    list_ = [
        {
            "model_name": name,
            # The provider of vLLM's API passes on fields that only such servers know.
            "litellm_params": {
                "model": f"hosted_vllm/{name}", "api_base": f"{replica.url}/v1", "api_key": "none", "max_retries": 0,
            },
            "model_info": {"id": f"replica-{i}", "max_input_tokens": context},
        }
        for i, replica in enumerate(replicas)
    ]
    router = {
        "routing_strategy": "simple-shuffle",
        "num_retries": 4,
        "retry_after": 0,
        "allowed_fails": 0,
        "cooldown_time": 5,
        "optional_pre_call_checks": ["session_affinity"],
        "deployment_affinity_ttl_seconds": 3600,
    }
    return {
        "model_list": list_,
        "router_settings": router,
        "litellm_settings": {"telemetry": False, "request_timeout": 600, "num_retries": 4},
        "general_settings": {"disable_spend_logs": True},
    }


class Router:
    """LiteLLM's proxy before some replicas."""

    def __init__(self, replicas, port):
        FOLDER.mkdir(parents=True, exist_ok=True)
        self.model = replicas[0].model()["id"]
        config = FOLDER / f"router-{port}.yaml"
        config.write_text(json.dumps(router_config(replicas, replicas[0].model()), indent=1))
        self.url, self.log = f"http://127.0.0.1:{port}", FOLDER / f"router-{port}.log"
        self.key = os.environ.get("LITELLM_MASTER_KEY") or f"sk-{secrets.token_hex(32)}"
        # Nothing is fetched, nobody is told, and its own pages are off.
        quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "DISABLE_ADMIN_UI": "True"}
        command = [PYTHON.parent / "litellm", "--config", config, "--host", "127.0.0.1", "--port", str(port)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **quiet, "LITELLM_MASTER_KEY": self.key})
        for _ in range(PATIENCE_S * 2):
            try:
                urllib.request.urlopen(f"{self.url}/health/liveliness", timeout=5).read()
                return
            except (urllib.error.URLError, OSError):
                if self.process.poll() is not None:
                    break
                time.sleep(0.5)
        raise SystemExit(f"the router does not answer: {self.log}")

    def stop(self):
        self.process.terminate()
        self.process.wait()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--port", type=int, default=4000)
    parser.add_argument("args", nargs="*")
    asked = parser.parse_args()
    install()
    replicas = [Replica(asked.program, asked.model, asked.args) for _ in range(asked.replicas)]
    try:
        router = Router(replicas, asked.port)
        for replica in replicas:
            print(f"replica {replica.url}, metrics {replica.url}/metrics")
        print(f"router  {router.url}/v1, model {router.model}, key {router.key}", flush=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            router.process.wait()
        except KeyboardInterrupt:
            pass
        router.stop()
    finally:
        for replica in replicas:
            replica.stop()


if __name__ == "__main__":
    main()
