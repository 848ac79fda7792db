"""What a comparison's figure holds besides the curves."""

import itertools
import runpy
import sys
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from run_folders import write_run

from leed_jax.evaluation import compare
from leed_jax.evaluation.figures import COLOURS, add_legend, label_ends, new_figure, reference_levels


def shown(folder, **algorithms):
    """The labels of the horizontal lines for variants of these algorithms, with what their instructions come to."""
    variants = {}
    for label, (algorithm, instructions) in algorithms.items():
        summary = {"instructions_return_per_agent": instructions}
        variants[label] = [write_run(folder / label, algorithm=algorithm, summary=summary)]
    return [label for _, label, _ in reference_levels(compare(variants, folder / "out", threshold=1.5))]


def test_instructions_are_those_of_whoever_follows_them(tmp_path):
    found = shown(tmp_path, alone=("ippo", -8.0), good=("leed", -7.0), bad=("leed", -9.0), other=("bc", -9.0))
    assert found == [
        "threshold (1.50)",
        "instructions alone, good (-7.00)",
        "instructions alone, bad and 1 more (-9.00)",
        "random actions (-4.00)",
    ]


def test_a_legend_has_as_many_columns_as_there_is_room_for():
    def drawn(labels):
        figure = Figure(figsize=(11.5, 4.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for label in labels:
            axes.plot([0, 1], label=label)
        rows = add_legend(figure, axes.get_lines())
        figure.canvas.draw()
        (legend,) = figure.legends
        box = legend.get_window_extent()
        assert [text.get_text() for text in legend.get_texts()] == labels
        return rows, box.x0 >= 0 and box.x1 <= figure.bbox.width

    assert drawn([f"variant {number}" for number in range(8)]) == (2, True)
    assert drawn([f"instructions alone, of variant {number} (-8)" for number in range(8)]) == (3, True)
    assert drawn([f"{number} {'long ' * 14}" for number in range(8)]) == (8, True)


def test_where_nobody_follows_any_none_are_shown(tmp_path):
    found = shown(tmp_path, alone=("ippo", -8.0), other=("mappo", -8.0))
    assert found == ["threshold (1.50)", "random actions (-4.00)"]


def labelled(count, length=4):
    """Whether so many curves that end at one height get labels, and where these are, from the bottom, in pixels."""
    figure = new_figure(11.5, 4.6)
    axes = figure.subplots()
    ends = [(1.0, 0.5, f"{index:0{length}}", "black") for index in range(count)]
    axes.plot([0, 1], [0.2, 0.5])
    found = label_ends(figure, axes, ends)
    figure.canvas.draw()
    return found, sorted(axes.get_yaxis_transform().transform(text.xyann)[1] for text in axes.texts)


def test_labels_at_the_ends_of_curves_do_not_overlap():
    found, heights = labelled(11)
    assert found
    gaps = [above - below for below, above in itertools.pairwise(heights)]
    assert len(gaps) == 10
    # The font has nine points, and the figure a hundred pixels per inch.
    assert min(gaps) > 9.0 * 100 / 72


def test_too_many_or_too_long_labels_are_left_to_the_legend():
    assert labelled(60) == (False, [])
    assert labelled(2, length=40) == (False, [])


def test_eleven_curves_have_colours_of_their_own():
    assert len(set(COLOURS)) == len(COLOURS) >= 11


def test_the_picture_of_the_readme_can_be_drawn(tmp_path, monkeypatch):
    root = Path(__file__).parents[1]
    numbers = root / "docs" / "results" / "sample_efficiency" / "comparison.json"
    monkeypatch.setattr(sys, "argv", ["readme_picture", str(numbers), str(tmp_path / "picture.png")])
    runpy.run_path(str(root / "benchmarks" / "readme_picture.py"), run_name="__main__")
    with Image.open(tmp_path / "picture.png") as image:
        assert 800 <= image.size[0] <= 1000
