"""A window to draw digits in with the mouse, with the network's prediction while they are drawn."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.backend_bases import Event, MouseEvent
from matplotlib.figure import Figure
from matplotlib.widgets import Button

import plots
import storage
from data import DataError, photo, segment

CANVAS_SHAPE = (280, 420)  # pixels
PEN_RADIUS = 9  # pixels


class Pad:
    """A canvas to draw on, the network's input, and its prediction, on a figure.

    predict: images uint8 (N, 28, 28) -> probabilities (N, 10); folder: where drawings are saved.
    `canvas` is uint8, of CANVAS_SHAPE, black on white.
    """

    def __init__(self, figure: Figure, predict: Callable[[np.ndarray], np.ndarray], folder: Path) -> None:
        self.figure, self.predict, self.folder = figure, predict, folder
        self.canvas = np.full(CANVAS_SHAPE, 255, np.uint8)
        self.pressed, self.last = False, None  # the mouse button; the pen's position, if pressed and on the canvas
        grid = figure.add_gridspec(2, 3, height_ratios=[8, 1], width_ratios=[3, 1, 1.6])
        self.canvas_axes, self.input_axes, self.bar_axes = (figure.add_subplot(grid[0, i]) for i in range(3))
        self.canvas_image = plots.show_image(self.canvas_axes, self.canvas, "black", cmap="gray")
        self.canvas_axes.set_title("draw digits here")
        self.buttons = {}
        for column, (name, action) in enumerate({"clear": self.clear, "save": self.save}.items()):
            self.buttons[name] = Button(figure.add_subplot(grid[1, column]), name)
            self.buttons[name].ax.spines[:].set_visible(True)
            self.buttons[name].on_clicked(action)
        message_axes = figure.add_subplot(grid[1, 2])
        message_axes.set_axis_off()
        self.message = message_axes.text(0.5, 0.5, "", ha="center", va="center")
        figure.canvas.mpl_connect("button_press_event", self.press)
        figure.canvas.mpl_connect("motion_notify_event", self.move)
        figure.canvas.mpl_connect("button_release_event", self.release)
        self.clear()

    def press(self, event: MouseEvent) -> None:
        """Start a stroke."""
        if event.inaxes is self.canvas_axes and event.button == 1:
            self.pressed = True
            self.move(event)

    def move(self, event: MouseEvent) -> None:
        """Continue the stroke in a straight line, and predict again. Outside the canvas the stroke pauses."""
        if not self.pressed:
            return
        position = (event.xdata, event.ydata) if event.inaxes is self.canvas_axes else None
        if position:
            self._draw_line(self.last or position, position)
            self._update()
        self.last = position

    def release(self, event: MouseEvent) -> None:
        """End the stroke."""
        self.pressed, self.last = False, None

    def clear(self, event: Event | None = None) -> None:
        """Erase the canvas."""
        self.canvas[:] = 255
        self._update()

    def save(self, event: Event | None = None) -> None:
        """Save the drawing as the first of digit-1.png, digit-2.png, ... that does not exist."""
        from PIL import Image

        number = 1
        while (path := self.folder / f"digit-{number}.png").exists():
            number += 1
        try:
            with storage.atomic_write(path) as file:
                Image.fromarray(self.canvas).save(file, "PNG")
            self._show_message(f"saved as {path.name}")
        except OSError as error:
            self._show_message(f"not saved: {error.strerror}")

    def _draw_line(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Make every pixel black whose distance from the line is less than the pen's radius."""
        y, x = np.indices(self.canvas.shape)
        (x0, y0), (x1, y1) = start, end
        dx, dy = x1 - x0, y1 - y0
        t = np.clip(((x - x0) * dx + (y - y0) * dy) / (dx**2 + dy**2 or 1), 0, 1)  # nearest point: start + t (dx, dy)
        distance = np.hypot(x - x0 - t * dx, y - y0 - t * dy)
        ink = np.clip(PEN_RADIUS + 0.5 - distance, 0, 1)  # smooth at the edge
        np.minimum(self.canvas, 255 * (1 - ink), out=self.canvas, casting="unsafe")

    def _update(self) -> None:
        """Predict, and show the canvas, the network's input and the probabilities."""
        try:
            images = np.stack([digit.image for digit in segment.digits(self.canvas)])
            probabilities = self.predict(images)
        except photo.PhotoError:  # the canvas is empty
            images, probabilities = np.zeros((1, 28, 28), np.uint8), np.zeros((1, 10))  # shown in place of nothing
        self.canvas_image.set_data(self.canvas)
        self.input_axes.clear()
        plots.show_image(self.input_axes, plots.montage(images), "black")
        self.input_axes.set_title("network input")
        self.bar_axes.clear()
        plots.plot_probabilities(self.bar_axes, probabilities, list(map(str, probabilities.argmax(axis=1))))
        if not probabilities.any():
            self.bar_axes.set_title("")
        self._show_message("")

    def _show_message(self, text: str) -> None:
        self.message.set_text(text)
        self.figure.canvas.draw_idle()


def open_window(predict: Callable[[np.ndarray], np.ndarray]) -> None:
    """Open the window; returns when it is closed. DataError if there is no display."""
    try:
        from matplotlib import pyplot

        pyplot.rcParams.update({"toolbar": "None", **plots.STYLE})
        figure = pyplot.figure("draw digits", figsize=(10, 4.4), layout="constrained")
        interactive = figure.canvas.required_interactive_framework is not None
    except (ImportError, ValueError):  # this backend is not installed
        interactive = False
    if not interactive:
        raise DataError("--draw needs a display, and Tk or Qt for Python (on Debian: apt install python3-tk)")
    figure.canvas.mpl_disconnect(figure.canvas.manager.key_press_handler_id)  # some keys would change the axes
    pad = Pad(figure, predict, Path.cwd())
    figure.canvas.draw()
    figure.set_layout_engine("none")  # keep the layout
    pyplot.show()
    del pad  # kept until here: the figure holds only weak references to its methods
