import dataclasses
import itertools

import jax
import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image
from tiny_run import DrawnWalk, Walk, WalkState

from leed_jax.learning.episodes import random_actor
from leed_jax.report import animation
from leed_jax.report.animation import Frame, _labels, draw_episodes, draw_frames
from leed_jax.report.curve import curves, draw_learning_curve
from leed_jax.report.statistics import interquartile_mean


def rows(returns, agents=None):
    """Rows of a chunk for each list and of a seed for each value; the agents' returns are the same throughout."""
    return [
        {"env_steps": 100 * (chunk + 1), "seed": seed, "return_per_agent": value, "return_of_agents": agents or [value]}
        for chunk, values in enumerate(returns)
        for seed, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 2.0, 3.0, 100.0], 2.5),
        ([5.0, 1.0, 2.0, 3.0, 4.0, 100.0, -100.0, 3.0], 3.0),
        # Five values: a quarter of the second and the fourth are cut away. (0.75 * 2 + 3 + 0.75 * 4) / 2.5
        ([1.0, 2.0, 3.0, 4.0, 5.0], 3.0),
        ([0.0, 2.0, 3.0, 8.0, 9.0], (0.75 * 2 + 3 + 0.75 * 8) / 2.5),
        ([7.0], 7.0),
        ([1.0, 2.0, 3.0, 100.0, np.nan], 2.5),
        ([np.nan, np.nan], np.nan),
    ],
)
def test_interquartile_mean(values, expected):
    np.testing.assert_allclose(interquartile_mean(np.array([values, values])), [expected, expected])


def test_curves_have_a_column_for_each_seed():
    steps, returns = curves(rows([[1.0, 2.0], [None, 4.0]]))
    np.testing.assert_array_equal(steps, [100, 200])
    np.testing.assert_array_equal(returns, [[1.0, 2.0], [np.nan, 4.0]])


@pytest.mark.parametrize("returns", [[[1.0]], [[1.0, 2.0], [None, None]], [[1.0] * 5, [2.0] * 5]])
def test_a_learning_curve_is_drawn_for_any_number_of_seeds(returns, tmp_path):
    path = tmp_path / "curve.png"
    draw_learning_curve(path, rows(returns), {"instructions alone": None, "random actions": -3.25})
    with Image.open(path) as image:
        assert min(image.size) > 400
        assert np.asarray(image.convert("L")).std() > 5


def figure_of(monkeypatch, path, *arguments):
    """Draw a learning curve, and give the figure."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))
    draw_learning_curve(path, *arguments)
    return figures[0]


def test_greedy_and_sampled_returns_have_a_label_each(tmp_path, monkeypatch):
    both = [{**row, "greedy_return_per_agent": 5.0} for row in rows([[1.0, 2.0], [3.0, 4.0]])]
    figure = figure_of(monkeypatch, tmp_path / "c.png", both, {"random actions": -3.25, "instructions alone": None})
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [
        "greedy actions: mean of 2 seeds",
        "sampled actions, while training: mean of 2 seeds",
        "random actions: -3.25",
    ]
    assert len(figure.axes) == 1
    thick = [line.get_ydata().tolist() for line in figure.axes[0].lines if line.get_linewidth() > 2]
    assert thick == [[5.0, 5.0], [1.5, 3.5]]


@pytest.mark.parametrize(
    ("agents", "panels", "labels"),
    [
        ([1.0, 1.05], 1, []),
        ([17.0, 17.0, -17.0], 2, ["agent 0", "agent 1", "agent 2"]),
        ([float(i) for i in range(9)], 2, ["highest agent", "mean", "lowest agent"]),
        ([None, 3.0], 1, []),
        ([None, 3.0, 1.0], 2, ["agent 0", "agent 1", "agent 2"]),
    ],
)
def test_agents_that_differ_have_a_panel(agents, panels, labels, tmp_path, monkeypatch):
    figure = figure_of(monkeypatch, tmp_path / "c.png", rows([[1.0, 1.0], [2.0, 2.0]], agents), {})
    assert len(figure.axes) == panels
    shown = [line.get_label() for axes in figure.axes[1:] for line in axes.lines]
    assert shown == labels


def test_rows_of_older_runs_without_returns_of_agents_can_be_drawn(tmp_path):
    old = [{key: value for key, value in row.items() if key != "return_of_agents"} for row in rows([[1.0], [2.0]])]
    draw_learning_curve(tmp_path / "c.png", old, {})
    assert (tmp_path / "c.png").stat().st_size > 1000


def test_an_animation_shows_every_state_of_a_few_episodes(tmp_path, monkeypatch):
    frames = []
    draw = DrawnWalk.draw
    # On a busy machine there may be fewer.
    monkeypatch.setattr(animation, "BUDGET_S", 1e9)
    monkeypatch.setattr(DrawnWalk, "draw", lambda self, axes, state: (frames.append(state), draw(self, axes, state)))
    assert draw_episodes(tmp_path / "a.gif", DrawnWalk(), random_actor(DrawnWalk()), jax.random.key(0))
    assert len(frames) == animation.MAX_EPISODES * (DrawnWalk().max_steps + 1)
    assert [int(state.step) for state in frames[:6]] == [0, 1, 2, 3, 4, 0]
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames > 1
        assert 600 <= image.width <= 700


def test_a_long_episode_is_drawn_in_few_frames(tmp_path, monkeypatch):
    frames = []
    monkeypatch.setattr(DrawnWalk, "draw", lambda self, axes, state: frames.append(int(state.step)))
    monkeypatch.setattr(animation, "MAX_FRAMES", 10)
    environment = dataclasses.replace(DrawnWalk(), max_steps=95)
    assert draw_episodes(tmp_path / "a.gif", environment, random_actor(environment), jax.random.key(0))
    assert frames == list(range(0, 96, 10))


def test_what_cannot_be_drawn_is_left_out(tmp_path):
    assert not draw_episodes(tmp_path / "a.gif", Walk(), random_actor(Walk()), jax.random.key(0))
    assert not (tmp_path / "a.gif").exists()


@dataclasses.dataclass(frozen=True)
class TrailedWalk(DrawnWalk):
    def positions(self, state):
        return np.stack([state.position, np.zeros(self.num_agents)], axis=-1)


def test_trails_returns_and_instructions_are_shown():
    environment, shown = TrailedWalk(), []

    class Recording(type(environment)):
        def draw(self, axes, state):
            super().draw(axes, state)
            shown.append(axes)

    states = [WalkState(np.array([float(step), -1.0]), np.array(step)) for step in range(3)]
    frames = [Frame(i, state, np.array([i, -2.5]), ["Go left", f"Go {i}"]) for i, state in enumerate(states)]
    draw_frames(Recording(), [frames])
    trails = [collection for collection in shown[-1].collections if isinstance(collection, LineCollection)]
    np.testing.assert_array_equal(trails[0].get_segments(), [[[0, 0], [1, 0]], [[1, 0], [2, 0]]])
    texts = [text.get_text() for text in shown[-1].figure.texts]
    assert texts == [
        "episode 1, step 2 of 2, return per agent -0.25",
        "agent 0: 2.00   Go left",
        "agent 1: -2.50   Go 2",
    ]


def test_the_returns_of_many_agents_are_summarised():
    states = [WalkState(np.zeros(9), np.array(0))]
    environment = dataclasses.replace(DrawnWalk(), num_agents=9)
    assert draw_frames(environment, [[Frame(0, states[0], np.arange(9.0))]])[:3] == b"GIF"
    assert _labels(Frame(0, None, np.arange(9.0))) == ["lowest: 0.00", "highest: 8.00"]


def test_returns_in_an_animation_are_those_of_the_episode(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(animation, "draw_frames", lambda environment, episodes: (found.extend(episodes), b"")[1])
    draw_episodes(tmp_path / "a.gif", DrawnWalk(), random_actor(DrawnWalk()), jax.random.key(0))
    for before, after in itertools.pairwise(found[0]):
        np.testing.assert_allclose(after.returns - before.returns, -np.abs(after.state.position), rtol=1e-5)
