"""Rows of layers: what a recipe's words stand for, and whether they fit together."""

import pytest

from nn.architecture import connect, input_shape, mlp, parse
from nn.convolution import Conv2D
from nn.layers import Dense


def names(row):
    return [type(layer).__name__ for layer in row]


def test_parse():
    row = parse(
        "conv 16 5 padding 2, batchnorm, relu, pool 2, conv 32 3 dilation 2 stride 1, tanh, dense 64, relu", "small"
    )
    assert names(row) == [
        "Conv2D", "BatchNorm", "ReLU", "MaxPool2D", "Conv2D", "Tanh", "Flatten", "Dense", "ReLU", "Dense"]  # fmt: skip
    assert row[0].config() == {
        "filters": 16, "size": 5, "stride": 1, "padding": 2, "dilation": 1, "init": "small"}  # fmt: skip
    assert row[4].dilation == 2 and row[7].config() == {"units": 64, "init": "small"}
    assert input_shape(row) == (28, 1, 28) and connect(row, (28, 1, 28)) == 10
    assert row[6].shape == (10, 32, 10)


def test_vectors_are_not_flattened():
    row = parse("dense 256, batchnorm momentum 0.5, leaky_relu")
    assert names(row) == ["Dense", "BatchNorm", "LeakyReLU", "Dense"] and row[1].momentum == 0.5
    assert input_shape(row) == (784,) == input_shape(mlp([5]))


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "no layer is called ''"),
        ("dense 5, , relu", "no layer is called ''"),
        ("relu, dense  10", "dense 10, is added to these: leave it out"),
        ("magic 3", "no layer is called 'magic'; there are dense, conv"),
        ("conv 16", "'conv 16': expected conv FILTERS SIZE"),
        ("conv 16 5 stride", r"\[OPTION VALUE"),
        ("conv 16 5 size 3", r"\[OPTION VALUE"),
        ("conv 16 5 init 3", "conv has the options stride, padding, dilation, not 'init'"),
        ("conv 16 5 padding -1", "padding must be an integer from 0 to 1,000, not -1$"),
        ("conv 16 5 speed 2", "conv has the options stride, padding, dilation, not 'speed'"),
        ("conv 16 five", "'conv 16 five': could not"),
        ("dense 0", "'dense 0': units must be an integer from 1 to 1,000,000, not 0"),
        ("dense 99999999999999999999", "units must be an integer from 1"),
        ("conv 4 3 padding 9999999999", "padding must be an integer from 0 to 1,000, not"),
        ("dense 2.5", "units must be an integer"),
    ],
)
def test_parse_says_what_is_wrong(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)


@pytest.mark.parametrize(
    "row, message",
    [
        ("conv 4 29", "layer 0, Conv2D.* covers 29 x 29 pixels, but its input has 28 x 28"),
        ("conv 4 5, pool 30", "layer 1, MaxPool2D.* covers 30 x 30 pixels, but its input has 24 x 24"),
        ("dense 5, relu, conv 3 3", "takes vectors"),
    ],
)
def test_layers_that_do_not_fit(row, message):
    row = parse(row)
    with pytest.raises(ValueError, match=message):
        connect(row, input_shape(row))


def test_the_last_layer_gives_no_images():
    with pytest.raises(ValueError, match=r"the last layer, Conv2D.* gives images"):
        connect([Conv2D(1, 19)], (28, 1, 28))


@pytest.mark.parametrize("shape", [(10**30, 1, 5), (28, 1, 1001), (28.0, 1, 28), (0, 1, 28)])
def test_images_of_any_size_are_not_accepted(shape):
    with pytest.raises(ValueError, match=r"(rows|columns) must be an integer from 1 to 1,000"):
        connect(parse("conv 4 3"), shape)


def test_he_is_the_default_initialisation():
    row = parse("conv 4 3, relu")
    assert [layer.init for layer in (row[0], row[-1], *mlp([])[:1], Dense(1), Conv2D(1, 1))] == ["he"] * 5
