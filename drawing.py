"""A window to draw a digit in with the mouse, and to see at once what the network takes it for."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.backend_bases import Event, MouseEvent
from matplotlib.figure import Figure
from matplotlib.widgets import Button

import plots
import storage
from data import DataError, picture

SIDE = 280  # pixels of the paper
PEN = 9  # pixels: radius of the pen


class Pad:
    """Paper, pen and answers on a figure.

    predict: the ten probabilities for an image, uint8 (28, 28); folder: where drawings are saved.
    `paper` is uint8 (SIDE, SIDE), black on white; `seen` the image the network got last, `probabilities` its answer.
    """

    def __init__(self, figure: Figure, predict: Callable[[np.ndarray], np.ndarray], folder: Path) -> None:
        self.figure, self.predict, self.folder = figure, predict, folder
        self.paper = np.full((SIDE, SIDE), 255, np.uint8)
        self.pressed = False  # whether the pen is down
        self.last: tuple[float, float] | None = None  # where it was, if that was on the paper
        grid = figure.add_gridspec(2, 3, height_ratios=[8, 1], width_ratios=[2, 1, 1.6])
        self.sheet, self.small, self.answer = (figure.add_subplot(grid[0, column]) for column in range(3))
        self.sheet_image = self.sheet.imshow(self.paper, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        self.small_image = self.small.imshow(
            np.zeros((28, 28)), cmap="gray_r", vmin=0, vmax=255, interpolation="nearest"
        )
        for ax, title in (self.sheet, "draw a digit here"), (self.small, "as the network sees it"):
            ax.set(xticks=[], yticks=[], title=title)
            ax.spines[:].set_visible(True)
        self.buttons = {}
        for column, (name, action) in enumerate({"clear": self.clear, "save": self.save}.items()):
            self.buttons[name] = Button(figure.add_subplot(grid[1, column]), name)
            self.buttons[name].ax.spines[:].set_visible(True)
            self.buttons[name].on_clicked(action)
        self.message = figure.add_subplot(grid[1, 2])
        self.message.set_axis_off()
        for name, action in ("button_press_event", self.down), ("motion_notify_event", self.move):
            figure.canvas.mpl_connect(name, action)
        figure.canvas.mpl_connect("button_release_event", self.up)
        self.clear()

    def down(self, event: MouseEvent) -> None:
        """The pen touches the paper."""
        if event.inaxes is self.sheet and event.button == 1:
            self.pressed = True
            self.move(event)

    def move(self, event: MouseEvent) -> None:
        """The pen goes on in a straight line; the network looks again."""
        if not self.pressed:
            return
        here = (event.xdata, event.ydata) if event.inaxes is self.sheet else None
        if here:
            self._line(self.last or here, here)
            self._look()
        self.last = here

    def up(self, event: MouseEvent) -> None:
        """The pen is lifted."""
        self.pressed, self.last = False, None

    def clear(self, event: Event | None = None) -> None:
        """New paper."""
        self.paper[:] = 255
        self._look()

    def save(self, event: Event | None = None) -> None:
        """Write the drawing to the first free digit-1.png, digit-2.png, ..."""
        from PIL import Image

        number = 1
        while (path := self.folder / f"digit-{number}.png").exists():
            number += 1
        try:
            with storage.replace(path) as file:
                Image.fromarray(self.paper).save(file, "PNG")
            self._say(f"saved as {path.name}")
        except OSError as error:
            self._say(f"not saved: {error.strerror}")

    def _line(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Everything closer to the line than the pen's radius becomes black."""
        y, x = np.indices(self.paper.shape)
        (x0, y0), (x1, y1) = start, end
        length = (x1 - x0) ** 2 + (y1 - y0) ** 2
        share = np.clip(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / (length or 1), 0, 1)
        distance = np.hypot(x - x0 - share * (x1 - x0), y - y0 - share * (y1 - y0))
        ink = np.clip(PEN + 0.5 - distance, 0, 1)  # smooth at the edge
        np.minimum(self.paper, 255 * (1 - ink), out=self.paper, casting="unsafe")

    def _look(self) -> None:
        """Show the paper, and what the network makes of it."""
        self._say("")
        try:
            self.seen = picture.prepare(self.paper)
            self.probabilities = self.predict(self.seen)
        except picture.PictureError:  # nothing on it yet
            self.seen, self.probabilities = np.zeros((28, 28), np.uint8), None
        self.sheet_image.set_data(self.paper)
        self.small_image.set_data(self.seen)
        self.answer.clear()
        plots.bars(self.answer, np.zeros(10) if self.probabilities is None else self.probabilities)
        if self.probabilities is None:
            self.answer.set_title("")
        self.figure.canvas.draw_idle()

    def _say(self, text: str) -> None:
        self.message.clear()
        self.message.set_axis_off()
        self.message.text(0.5, 0.5, text, ha="center", va="center")
        self.figure.canvas.draw_idle()


def window(predict: Callable[[np.ndarray], np.ndarray]) -> None:
    """Open the window, and come back when it is closed. DataError where there is no display."""
    try:
        from matplotlib import pyplot

        pyplot.rcParams.update({"toolbar": "None", **plots.STYLE})
        figure = pyplot.figure("draw a digit", figsize=(10, 4.4), layout="constrained")
        shows = figure.canvas.required_interactive_framework is not None
    except (ImportError, ValueError):  # a backend that is not there
        shows = False
    if not shows:
        raise DataError("--draw needs a display, and Tk or Qt for Python (on Debian: apt install python3-tk)")
    figure.canvas.mpl_disconnect(figure.canvas.manager.key_press_handler_id)  # keys that change axes, l and k
    pad = Pad(figure, predict, Path.cwd())
    figure.canvas.draw()
    figure.set_layout_engine("none")  # everything has its place now
    pyplot.show()
    del pad  # which had to live until here: the figure holds no strong references to what it calls
