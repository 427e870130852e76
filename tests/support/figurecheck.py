"""The layout of figures."""

from __future__ import annotations

from g5kvirt.views.figures import Picture
from g5kvirt.views.style import ONE_COLUMN, TWO_COLUMNS


def check_layout(picture: Picture, columns: int) -> None:
    """The figure is as wide as it should be, and none of its texts overlaps another or falls off the page."""
    figure = picture.figure
    assert figure.get_figwidth() == (ONE_COLUMN if columns == 1 else TWO_COLUMNS)
    assert figure.get_figheight() <= 5
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert axes.bbox.height / figure.dpi >= 0.2, "the plot has collapsed"
    labels_and_foot = 0.75  # inches; more than that is an empty stripe
    assert axes.bbox.y0 / figure.dpi <= labels_and_foot
    page = figure.bbox
    texts = [*axes.texts, axes.xaxis.label, axes.yaxis.label]
    for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        low, high = sorted(limits)  # matplotlib keeps ticks beyond them, which it does not draw
        texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    texts += [text for legend in figure.legends for text in legend.get_texts()]
    texts += figure.texts
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts if t.get_text() and t.get_visible()]
    for text, box in boxes:
        assert box.x0 >= -1, text
        assert box.x1 <= page.x1 + 1, text
        assert box.y0 >= -1, text
        assert box.y1 <= page.y1 + 1, text
    for first, (text, box) in enumerate(boxes):
        for other_text, other in boxes[first + 1 :]:
            apart = (
                box.x1 <= other.x0 + 1
                or other.x1 <= box.x0 + 1
                or box.y1 <= other.y0 + 1
                or other.y1 <= box.y0 + 1
            )
            assert apart, f"{text!r} and {other_text!r} overlap"
