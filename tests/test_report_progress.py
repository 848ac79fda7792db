import io

import pytest
from rich.console import Console

from leed_jax.report import progress
from leed_jax.report.progress import ProgressReport, Status, clock, short
from leed_jax.report.summary import print_summary

SUMMARY = {
    "algorithm": "leed",
    "return_per_agent": [-10.0, -12.0],
    "stochastic_return_per_agent": [-11.0, None],
    "instructions_return_per_agent": None,
    "random_return_per_agent": -27.25,
    "evaluation_episodes": 1024,
    "env_steps": 1_000_000,
    "wall_s": 12.34,
    "compile_s": 5.6,
    "preparation_s": 1.5,
    "recording_s": None,
    "steps_per_s": 162074.5,
}


def status(steps, total=1000):
    return Status(steps, total, steps_per_s=61_234.0, seconds_left=75.0, return_per_agent=-14.236, expert_weight=0.5)


@pytest.fixture
def time_of_day(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (7, "7"), (999, "999"), (1000, "1k"), (61_234.0, "61.2k"), (999_600.0, "1M"), (2.5e9, "2.5G")],
)
def test_short_numbers(number, text):
    assert short(number) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.0, "0:00"), (75.4, "1:15"), (3599.6, "1:00:00"), (7384.0, "2:03:04")])
def test_durations(seconds, text):
    assert clock(seconds) == text


def test_a_status_fits_into_eighty_columns():
    line = Status(123_456_789, 123_456_789, 123_456_789.0, 359_999.0, -1234.56, 0.25).line()
    assert line == "123M/123M steps, 123M steps/s, return/agent -1234.56, expert 0.25, 99:59:59 left"
    assert len(line) <= 80
    assert "return/agent none yet" in Status(1, 2, 1.0, 1.0, None, 0.0).line()


def test_plain_lines_come_once_a_second_for_five_percent_or_after_ten_seconds(time_of_day):
    output = io.StringIO()
    with ProgressReport(Console(file=output, width=80)) as report:
        for seconds, steps in [(0.2, 500), (0.9, 510), (1.1, 520), (2.0, 590), (2.2, 600), (4.0, 620), (12.3, 621)]:
            time_of_day[0] = seconds
            report.update(status(steps))
        time_of_day[0] = 12.4
        report.update(status(1000))
    lines = output.getvalue().splitlines()
    assert [line.split("/")[0] for line in lines] == ["520", "600", "621", "1k"]
    assert lines[0] == "520/1k steps, 61.2k steps/s, return/agent -14.24, expert 0.50, 1:15 left"
    assert "\x1b" not in output.getvalue()


def test_a_terminal_gets_one_line_that_is_kept_up_to_date():
    output = io.StringIO()
    console = Console(file=output, width=80, force_terminal=True, legacy_windows=False)
    with ProgressReport(console) as report:
        for steps in range(0, 1000, 10):
            report.update(status(steps))
        report.note("a note of its own")
        report.update(status(1000))
    shown = output.getvalue()
    assert "\x1b[?25l" in shown
    assert shown.rstrip().endswith("\x1b[?25h")
    assert shown.count("a note of its own\n") == 1
    # Redrawn in place: far fewer line ends than updates.
    assert shown.count("\n") < 5
    assert "1k/1k steps" in shown


def test_a_terminal_without_cursor_gets_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    output = io.StringIO()
    with ProgressReport(Console(file=output, width=80, force_terminal=True)) as report:
        report.update(status(1000))
    assert output.getvalue().startswith("1k/1k steps")


def test_the_table_is_narrow_and_says_what_is_not_known(tmp_path):
    output = io.StringIO()
    print_summary(Console(file=output, width=80), SUMMARY, tmp_path)
    text = output.getvalue()
    assert "-11.00" in text
    assert "-12.00, -10.00" in text
    assert "-27.25" in text
    assert "1,000,000" in text
    assert next(line for line in text.splitlines() if "instructions alone" in line).split("│")[2].strip() == "-"
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "No animation: the environment cannot draw itself." in text
    assert "return of" not in text


def printed(summary, folder):
    output = io.StringIO()
    print_summary(Console(file=output, width=80), summary, folder)
    return [[cell.strip() for cell in line.split("│")[1:3]] for line in output.getvalue().splitlines() if "│" in line]


def test_the_table_shows_each_agent_or_the_extremes_of_many(tmp_path):
    (tmp_path / "rollout.gif").touch()
    lines = printed({**SUMMARY, "return_of_agents": [[17.0, -17.0], [19.0, None]]}, tmp_path)
    assert ["return of agent 0, greedy policy", "18.00"] in lines
    assert ["return of agent 1, greedy policy", "-17.00"] in lines
    lines = printed({**SUMMARY, "return_of_agents": [[float(i) for i in range(9)]]}, tmp_path)
    assert ["return of lowest agent, greedy policy", "0.00"] in lines
    assert ["return of highest agent, greedy policy", "8.00"] in lines
