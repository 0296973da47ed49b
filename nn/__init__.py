"""The parts of a neural network: layers, losses, convolution, their memory, and stacks of layers."""
