"""Stacks of layers: from the words of a recipe, from the description in a model file, and whether they fit together.

conv 16 5, pool 2, relu, conv 32 3 dilation 2, batchnorm, relu, dense 128, relu
"""

from collections.abc import Iterable
from inspect import signature

from convolution import Conv2D, Flatten, MaxPool2D
from layers import ACTIVATIONS, BatchNorm, Dense, Layer

WORDS = {  # what a recipe calls them, and what the numbers behind that are
    "dense": (Dense, "units"),
    "conv": (Conv2D, "filters", "size"),
    "pool": (MaxPool2D, "size"),
    "batchnorm": (BatchNorm,),
    **{name: (layer,) for name, layer in ACTIVATIONS.items()},
}
LAYERS = {layer.__name__: layer for layer in (Flatten, *(layer for layer, *_ in WORDS.values()))}  # in model files


def mlp(hidden: Iterable[int], activation: str = "relu", init: str = "he", classes: int = 10) -> list[Layer]:
    """The layers of a multi-layer perceptron; no hidden size at all makes it softmax regression."""
    stack: list[Layer] = []
    for units in hidden:
        stack += [Dense(units, init), ACTIVATIONS[activation]()]
    return [*stack, Dense(classes, init)]


def parse(text: str, init: str = "he", classes: int = 10) -> list[Layer]:
    """The layers that a text names, with a dense one for the classes behind them. ValueError names what is wrong.

    Each is a word, its numbers, and more settings by name: conv 16 5 stride 2. Where pictures meet a dense layer, they
    are flattened.
    """
    stack: list[Layer] = []
    for part in [*text.split(","), f"dense {classes}"]:
        word, *values = part.split() or [""]
        if word not in WORDS:
            raise ValueError(f"no layer is called {word!r}; there are {', '.join(WORDS)}")
        kind, *names = WORDS[word]
        first, more = values[: len(names)], values[len(names) :]
        keys = [*names, *more[::2]]
        if len(first) < len(names) or len(more) % 2 or len({*keys, "init"}) <= len(keys):
            raise ValueError(f"{part.strip()!r}: say {' '.join([word, *names])}, then more settings as NAME VALUE")
        if kind is Dense and input_shape(stack) != (784,) and not any(isinstance(layer, Flatten) for layer in stack):
            stack.append(Flatten())
        try:
            settings = dict(zip(keys, map(number, [*first, *more[1::2]]), strict=True))
            stack.append(kind(**settings, **({"init": init} if "init" in signature(kind).parameters else {})))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{part.strip()!r}: {str(error).removeprefix(f'{kind.__name__}.__init__() ')}") from None
    return stack


def number(text: str) -> int | float:
    """A whole number if it is one."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def input_shape(layers: list[Layer]) -> tuple[int, ...]:
    """How the first layer wants an image: as a picture if any layer works on pictures, else as a vector."""
    return (28, 1, 28) if any(layer.pictures for layer in layers) else (784,)


def connect(layers: list[Layer], shape: tuple[int, ...]) -> int:
    """Tell each layer the shape of its input, and return the number of classes. ValueError if they do not fit."""
    for i, layer in enumerate(layers):
        try:
            shape = layer.connect(shape)
        except ValueError as error:
            raise ValueError(f"layer {i}, {layer}, {error}") from None
    return shape[0]
