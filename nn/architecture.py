"""Stacks of layers, built from a layer specification such as this one, and the check that the layers fit together.

conv 16 5, pool 2, relu, conv 32 3 dilation 2, batchnorm, relu, dense 128, relu
"""

from collections.abc import Iterable
from inspect import signature

from nn.convolution import Conv2D, Flatten, MaxPool2D
from nn.layers import ACTIVATIONS, BatchNorm, Dense, Layer

LAYER_SYNTAX = {  # word in a specification: the class, and the names of its required numbers
    "dense": (Dense, "units"),
    "conv": (Conv2D, "filters", "size"),
    "pool": (MaxPool2D, "size"),
    "batchnorm": (BatchNorm,),
    **{name: (layer,) for name, layer in ACTIVATIONS.items()},
}
LAYERS = {kind.__name__: kind for kind in [Flatten, *(kind for kind, *_ in LAYER_SYNTAX.values())]}  # in model files


def mlp(hidden: Iterable[int], activation: str = "relu", init: str = "he") -> list[Layer]:
    """The layers of a multi-layer perceptron; without hidden layers it is softmax regression."""
    stack: list[Layer] = []
    for units in hidden:
        stack += [Dense(units, init), ACTIVATIONS[activation]()]
    return [*stack, Dense(10, init)]


def parse(text: str, init: str = "he") -> list[Layer]:
    """The layers of a specification, plus a dense layer for the ten digits. ValueError names what is wrong.

    Each layer is a word, its numbers, and optional arguments by name: conv 16 5 stride 2. A `Flatten` is inserted
    where images meet a dense layer.
    """
    stack: list[Layer] = []
    parts = text.split(",")
    if parts[-1].split() == ["dense", "10"]:
        raise ValueError("the last layer, dense 10, is added to these: leave it out")
    for part in [*parts, "dense 10"]:
        word, *values = part.split() or [""]
        if word not in LAYER_SYNTAX:
            raise ValueError(f"no layer is called {word!r}; there are {', '.join(LAYER_SYNTAX)}")
        kind, *names = LAYER_SYNTAX[word]
        options = [name for name in signature(kind).parameters if name not in (*names, "init")]
        first, more = values[: len(names)], values[len(names) :]
        keys = [*names, *more[::2]]
        if len(first) < len(names) or len(more) % 2 or len({*keys}) < len(keys):
            form = " ".join([word, *map(str.upper, names)])
            raise ValueError(f"{part.strip()!r}: expected {form} [OPTION VALUE ...]")
        if unknown := [key for key in more[::2] if key not in options]:
            has = f"has the options {', '.join(options)}" if options else "has no options"
            raise ValueError(f"{part.strip()!r}: {word} {has}, not {unknown[0]!r}")
        if kind is Dense and input_shape(stack) != (784,) and not any(isinstance(layer, Flatten) for layer in stack):
            stack.append(Flatten())
        try:
            numbers = [int(v) if v.lstrip("-").isdecimal() else float(v) for v in [*first, *more[1::2]]]
            settings = dict(zip(keys, numbers, strict=True))
            stack.append(kind(**settings, **({"init": init} if "init" in signature(kind).parameters else {})))
        except ValueError as error:
            raise ValueError(f"{part.strip()!r}: {error}") from None
    return stack


def input_shape(layers: list[Layer]) -> tuple[int, ...]:
    """Input shape of the first layer: an image if any layer takes images, else a vector."""
    return (28, 1, 28) if any(layer.takes_images for layer in layers) else (784,)


def connect(layers: list[Layer], shape: tuple[int, ...]) -> int:
    """Connect each layer to the output shape of the one before; returns the number of classes. ValueError."""
    if len({*layers}) < len(layers):  # a layer keeps what its `backward` needs
        raise ValueError("a layer is used twice: make a new one for each place")
    for i, layer in enumerate(layers):
        try:
            if layer.takes_images and len(shape) != 3:
                raise ValueError(f"takes images, not inputs of shape {shape}")
            shape = layer.connect(shape)
        except ValueError as error:
            raise ValueError(f"layer {i}, {layer}, {error}") from None
    if len(shape) != 1:
        raise ValueError(f"the last layer, {layers[-1]}, gives images, not one number for each class")
    return shape[0]
