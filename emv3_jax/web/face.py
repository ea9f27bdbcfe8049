"""Finds the face of a portrait in a process of its own: `python -m emv3_jax.web.face PICTURE`."""

import json
import sys


def main(arguments: list[str]) -> int:
  """Writes {"face_box": "y1,y2,x1,x2"} in pixels of the picture, or {"error": message}."""
  from emv3_jax.conditioning import face
  from emv3_jax.errors import InputError
  from emv3_jax.io import image_files
  try:
    found = face.detect_face(image_files.load_image(arguments[0]))
    answer = {"face_box": ",".join(str(round(edge)) for edge in (found.y1, found.y2, found.x1, found.x2))}
  except face.NoFace:
    answer = {"error": "No face was found. Draw a box around it in the picture."}
  except InputError as error:
    answer = {"error": str(error)}
  print(json.dumps(answer))
  return 2 if "error" in answer else 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
