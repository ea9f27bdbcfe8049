"""A process that speaks as `emv3_jax.web.sampler` does and samples nothing: it starts at once.

What it does with a job is told by the prompt: `crash`, `crash once`, `slow` (until it is cancelled), `deaf` (even then),
`fail`, `elsewhere once`; anything else is done in two steps.
"""

import json
import os
import pathlib
import queue
import signal
import sys
import threading
import time

FORM = {"model": "tiny", "puppets": True, "seed": 43,
        "settings": [{"name": "steps", "kind": "whole", "choices": [], "value": "8", "help": "Number of solver steps.",
                      "first": True}],
        "tasks": [{"name": "i2v", "inputs": ["image"], "face": True, "none": True},
                  {"name": "t2v", "inputs": [], "face": False, "none": True}]}
commands, cancelled = queue.Queue(), set()


def tell(event: str, **fields) -> None:
  print(json.dumps({"event": event, **fields}), flush=True)


def listen() -> None:
  for line in sys.stdin:
    command = json.loads(line)
    cancelled.add(command["cancel"]) if "cancel" in command else commands.put(command["make"])
  os._exit(75)


def entry(job: dict, status: str, reason: str = "") -> dict:
  return {"line": job["line"], "name": job["name"], "status": status, "reason": reason, "total_seconds": 0.1,
          "finished": "2026-01-01T00:00:00Z"}


def make(folder: pathlib.Path, job: dict) -> None:
  name, prompt = job["name"], job["request"].get("prompt", "")
  once = folder / f".{name}.once"
  if prompt == "crash" or prompt == "crash once" and not once.exists():
    once.touch()
    os.kill(os.getpid(), signal.SIGKILL)
  if prompt == "elsewhere once" and not once.exists():
    once.touch()
    tell("elsewhere", name=name, owner="process 1 on host")
    return
  if prompt == "fail":
    tell("end", name=name, entry=entry(job, "failed", "no such voice"), prompts=[])
    return
  for step in range(10**6 if prompt in ("slow", "deaf") else 2):
    if name in cancelled and prompt != "deaf":
      tell("end", name=name, entry=entry(job, "stopped", "cancelled"), prompts=[])
      return
    tell("step", name=name, step=step, steps=10)
    time.sleep(0.02 if prompt in ("slow", "deaf") else 0)
  (folder / "previews" / f"{name}.png").write_bytes(b"\x89PNG")
  (folder / "prompts" / f"{name}.safetensors").write_bytes(b"embedding")
  tell("preview", name=name)
  (folder / f"{name}.mp4").write_bytes(b"video" * 100)
  request = {"task": "i2v", **job["request"]}
  (folder / f"{name}.json").write_text(json.dumps({
      "seed": request.get("seed", 43), "frames": 17, "size": {"width": 64, "height": 64}, "fingerprint": "0",
      "request": request, "origins": {}, "config": {"name": "tiny", "sampling": {"enlarge": 6, "steps": 8}}}))
  tell("end", name=name, entry=entry(job, "done"), prompts=[f"{name}.safetensors"])


def main() -> None:
  folder = pathlib.Path(sys.argv[1])
  threading.Thread(target=listen, daemon=True).start()
  tell("ready", form=FORM)
  while True:
    make(folder, commands.get())


if __name__ == "__main__":
  main()
