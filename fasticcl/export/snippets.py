"""Short example programs that use an exported file. The model card shows one, and the tests run them."""

import json

from fasticcl.engine.run.weights import Description
from fasticcl.export.classifier import InputType

REQUIREMENTS = {
    "onnx": "`pip install numpy onnxruntime pillow`",
    "pt2": "`pip install numpy torch pillow`",
    "safetensors": "an installed `fasticcl`",
}
"""Requirements of the program by format, in Markdown."""

_LOAD = {
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
_PRINT = """\
for k in np.argsort(-probabilities[0])[:5]:
    print(f"{probabilities[0][k]:.3f} {classes[k]}")
"""


def usage_snippet(description: Description, file: str, format: str, input: InputType) -> str:
    """Return a program that prints the five most probable classes of ``image.jpg``.

    Sizes and offsets are rounded as in evaluation (`fasticcl.data.crops.evaluation_crop`).

    Args:
        description: the description of the model.
        file: name of the exported file in the working directory of the program.
        format: onnx, pt2 or safetensors.
        input: type of the input of the file.
    """
    parts = [
        _LOAD[format].format(file=json.dumps(file)),
        _preprocess(description),
        _to_batch(input),
        _RUN[format],
        _PRINT,
    ]
    return "".join(parts).strip() + "\n"


def _preprocess(description: Description) -> str:
    side, short_side = description.image_size, description.eval_resize
    opened = '\nimage = ImageOps.exif_transpose(Image.open("image.jpg")).convert("RGB")\n'
    if not short_side:
        return f"{opened}image = image.resize(({side}, {side}), Image.Resampling.BILINEAR)\n"
    return f"""{opened}short = min(image.size)
image = image.resize([side * {short_side} // short for side in image.size], Image.Resampling.BILINEAR)
left, top = (round((side - {side}) / 2) for side in image.size)
image = image.crop((left, top, left + {side}, top + {side}))
"""


def _to_batch(input: InputType) -> str:
    if input == "uint8":
        return "images = np.array(image)[None]\n"
    return "images = np.array(image, np.float32).transpose(2, 0, 1)[None] / 255\n"
