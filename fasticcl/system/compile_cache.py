"""Persistent folder for the code that torch.compile generates for a GPU."""

import os
import tempfile
from pathlib import Path

_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
_FOLDER = Path("~/.cache/fasticcl/torchinductor")


def use_persistent_cache() -> str:
    """Let torch.compile keep its code in ``~/.cache/fasticcl/torchinductor``, for later runs.

    The default of torch is a folder in ``/tmp``, which a reboot or a new container empties. Triton's cache is
    a subfolder, unless TRITON_CACHE_DIR is set. If the user has set TORCHINDUCTOR_CACHE_DIR, nothing changes.

    Returns:
        The reason why the folder cannot be used and the default of torch remains, or an empty string.
    """
    # Importing torchvision imports inductor, which sets the variable to the default of torch.
    default = os.path.join(tempfile.gettempdir(), "torchinductor_")
    if not os.environ.get(_VARIABLE, default).startswith(default):
        return ""
    try:
        folder = _FOLDER.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        return str(error)
    os.environ[_VARIABLE] = str(folder)
    return ""
