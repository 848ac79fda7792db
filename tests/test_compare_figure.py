"""What a comparison's figure holds besides the curves."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from run_folders import write_run

from leed_jax.evaluation import compare
from leed_jax.evaluation.figures import add_legend, reference_levels


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
