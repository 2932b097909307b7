"""How many parameters a recorded run's network has, counted from its config: nothing here builds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Config = Mapping[Any, Any]


def parameters(run: Config) -> int:
    """Weights and biases of a run's network, from its `model.` keys; KeyError for an architecture not known here."""
    own = {key.removeprefix("model."): value for key, value in run.items() if str(key).startswith("model.")}
    return _COUNTS[own["name"]](
        own, int(own.get("input_size") or run["data.final_seq_length"]), int(own["num_classes"])
    )


def _logistic(_model: Config, length: int, classes: int) -> int:
    return classes * (length + 1)


def _mlp(model: Config, length: int, classes: int) -> int:
    hidden = int(model["hidden"])
    later = (int(model["layers"]) - 1) * hidden * (hidden + 1)
    return hidden * (length + 1) + later + classes * (hidden + 1)


def _gru(model: Config, length: int, classes: int) -> int:
    hidden, step = int(model["hidden"]), int(model["step_size"])
    both = 2 * 3 * hidden * (step + hidden + 2)
    return both + classes * (2 * hidden * (length // step) + 1)


def _cnn(model: Config, length: int, classes: int) -> int:
    channels, inputs, count = int(model["channels"]), 1, 0
    for kernel in model["kernel_sizes"]:
        count += channels * (inputs * kernel + 1)
        length, inputs = length + 3 - kernel, channels  # padding 1
        if model["pooling"] == "stride":
            length = (length + 1) // 2
        elif model["pooling"] != "none":
            length //= 2
    return count + classes * (channels * length + 1)


def _resnet(model: Config, _length: int, classes: int) -> int:
    channels, kernel = int(model["channels"]), int(model["kernel_size"])
    block = 2 * kernel * channels**2 + 4 * channels  # the norms have the biases
    return channels * (kernel + 1) + int(model["blocks"]) * block + 2 * channels + classes * (channels + 1)


def _tcn(model: Config, _length: int, classes: int) -> int:
    channels, kernel = int(model["channels"]), int(model["kernel_size"])
    wide = channels * (channels * kernel + 1)
    first = channels * (kernel + 1) + wide + 2 * channels  # its shortcut is a convolution of width 1
    return first + (int(model["blocks"]) - 1) * 2 * wide + classes * (channels + 1)


def _dilated_cnn(model: Config, length: int, classes: int) -> int:
    channels, kernel = int(model["channels"]), int(model["kernel_size"])
    later = (int(model["layers"]) - 1) * channels * (channels * kernel + 1)
    return channels * (kernel + 1) + later + classes * (channels * length + 1)


_COUNTS: dict[str, Callable[[Config, int, int], int]] = {
    "logistic": _logistic,
    "mlp": _mlp,
    "cnn": _cnn,
    "gru": _gru,
    "resnet": _resnet,
    "tcn": _tcn,
    "dilated_cnn": _dilated_cnn,
}
