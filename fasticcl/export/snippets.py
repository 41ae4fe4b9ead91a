"""Programs of a few lines that use an exported file; a card shows one, and a test runs them."""

import json

from fasticcl.engine.run.weights import Description
from fasticcl.export.classifier import Input

NEEDS = {
    "onnx": "`pip install numpy onnxruntime pillow`",
    "pt2": "`pip install numpy torch pillow`",
    "safetensors": "an installed `fasticcl`",
}
"""What a program needs, for people."""

_OPEN = {
    "onnx": """
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession({file}, providers=["CPUExecutionProvider"])
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
""",
    "pt2": """
import json

import numpy as np
import torch
from PIL import Image, ImageOps

metadata = {{"classes": ""}}
classifier = torch.export.load({file}, extra_files=metadata).module()
classes = json.loads(metadata["classes"])
""",
    "safetensors": """
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from fasticcl.engine.run.weights import load_model
from fasticcl.export.classifier import Classifier

model = load_model(Path({file}))
classifier, classes = Classifier(model), model.description.classes
""",
}
_RUN = {
    "onnx": """
logits, probabilities = session.run(["logits", "probabilities"], {"images": images})
""",
    "pt2": """
logits, probabilities = (output.numpy() for output in classifier(torch.from_numpy(images)))
""",
}
_RUN["safetensors"] = _RUN["pt2"]
_SHOW = """\
for k in np.argsort(-probabilities[0])[:5]:
    print(f"{probabilities[0][k]:.3f} {classes[k]}")
"""


def snippet(description: Description, file: str, format: str, input: Input) -> str:
    """Return a program that prints the five most probable classes of ``image.jpg``.

    Sizes are rounded as evaluation rounds them (`fasticcl.data.plan.evaluation_stream`).

    Args:
        description: of the model.
        file: name of the exported file, in the folder where the program runs.
        format: onnx, pt2 or safetensors.
        input: what the file takes.
    """
    parts = [
        _OPEN[format].format(file=json.dumps(file)),
        _image(description),
        _images(input),
        _RUN[format],
        _SHOW,
    ]
    return "".join(parts).strip() + "\n"


def _image(description: Description) -> str:
    side, short = description.image_size, description.eval_resize
    upright = '\nimage = ImageOps.exif_transpose(Image.open("image.jpg")).convert("RGB")\n'
    if not short:
        return f"{upright}image = image.resize(({side}, {side}), Image.Resampling.BILINEAR)\n"
    return f"""{upright}short = min(image.size)
image = image.resize([side * {short} // short for side in image.size], Image.Resampling.BILINEAR)
left, top = (round((side - {side}) / 2) for side in image.size)
image = image.crop((left, top, left + {side}, top + {side}))
"""


def _images(input: Input) -> str:
    if input == "uint8":
        return "images = np.array(image)[None]\n"
    return "images = np.array(image, np.float32).transpose(2, 0, 1)[None] / 255\n"
