import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_run import DrawnWalk, Walk

from leed_jax.learning.episodes import random_actor
from leed_jax.report import animation
from leed_jax.report.animation import draw_episodes
from leed_jax.report.curve import curves, draw_learning_curve
from leed_jax.report.statistics import interquartile_mean


def rows(returns):
    return [
        {"env_steps": 100 * (chunk + 1), "seed": seed, "return_per_agent": value}
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
