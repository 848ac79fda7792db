import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from tiny_run import Walk, record_walk, run_command, settings

import leed_jax
from leed_jax.cli.run import main
from leed_jax.config import RunConfig, from_dictionary
from leed_jax.config.compose import compose_config, experiment_names, quoted
from leed_jax.config.options import options
from leed_jax.errors import ConfigurationError
from leed_jax.learning.config import ALGORITHMS
from leed_jax.version import __version__


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return record_walk(tmp_path_factory.mktemp("recorded"), Walk())


def files_under(folder):
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def test_an_experiment_of_the_package_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = compose_config(["experiment=mpe_spread"])
    assert config.experiment == "mpe_spread"
    assert config.env["name"] == "leed_jax.envs.mpe_spread:SimpleSpread"
    assert config.env["num_agents"] == 3
    assert config.demonstrations.path
    assert "mpe_spread" in experiment_names()


def test_settings_override_the_experiment():
    config = compose_config(
        [
            "experiment=mpe_spread",
            "algorithm=ippo",
            "seed=4",
            "num_seeds=2",
            "total_steps=2e6",
            "num_envs=64",
            "env.num_agents=5",
            "+ppo.epochs=1",
            "++network.hidden_sizes=[8,16]",
            "demonstrations.path=",
            "demonstrations.episodes=null",
            "out=runs/a b (c)/it's=here",
        ]
    )
    assert (config.algorithm, config.seed, config.num_seeds) == ("ippo", 4, 2)
    assert (config.total_steps, config.num_envs) == (2_000_000, 64)
    assert config.env["num_agents"] == 5
    assert config.env["max_steps"] == 26
    assert config.ppo.epochs == 1
    assert config.network.hidden_sizes == (8, 16)
    assert (config.demonstrations.path, config.demonstrations.episodes) == ("", None)
    assert config.out == "runs/a b (c)/it's=here"


@pytest.mark.parametrize(
    "text", ["1e3", "1_000", "true", "it's", "a,b", "[1]", "a b", r"a\b", r"a\'b", "a\\\\", "日本"]
)
def test_a_text_is_taken_as_it_is_typed(text):
    config = compose_config(["experiment=mpe_spread", f"llm.model={text}", f"env.tag={quoted(text)}"])
    assert (config.llm.model, config.env["tag"]) == (text, text)


def test_an_environment_needs_no_experiment():
    config = compose_config(["env.name=tiny_run:Walk", "env.max_steps=7", "algorithm=ippo"])
    assert config.env == {"name": "tiny_run:Walk", "max_steps": 7}
    assert config.experiment == ""


def test_a_users_own_experiment_file_may_extend_another(tmp_path, monkeypatch):
    (tmp_path / "my own.yaml").write_text("defaults: [mpe_spread]\nseed: 7\nenv: {num_agents: 4}\nppo: {epochs: 2}\n")
    monkeypatch.chdir(tmp_path)
    # As in a process that has composed nothing before.
    ConfigStore.instance().repo.pop("experiment", None)
    for text in ("my own.yaml", str(tmp_path / "my own.yaml")):
        config = compose_config([f"experiment={text}", "num_envs=16"])
        assert (config.seed, config.ppo.epochs, config.num_envs) == (7, 2, 16)
        assert config.env["num_agents"] == 4
        assert config.env["local_ratio"] == 0.5
        assert config.experiment == "my own"


def test_composing_leaves_hydra_as_it_was():
    compose_config(["experiment=mpe_spread"])
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["experiment=mpe_spread", "nm_envs=3"], ["nm_envs", "Did you mean num_envs?"]),
        (["experiment=mpe_spread", "learning_rate=3"], ["learning_rate", "Did you mean ppo.learning_rate?"]),
        (["experiment=mpe_spred"], ["mpe_spred", "Did you mean mpe_spread?", "Available: "]),
        (["experiment=no/such.yaml"], ["no/such.yaml", "mpe_spread"]),
        (["experiment=bad.yaml"], ["bad.yaml", "not valid YAML"]),
        (["experiment=list.yaml"], ["list.yaml", "keys and values"]),
        (["experiment=section.yaml"], ["experiment file section.yaml: ppo must hold keys and values; it is [1]"]),
        (["experiment=null.yaml"], ["experiment file null.yaml: ppo.entropy_decay cannot be null"]),
        (["experiment=tuned.yaml"], ["experiment file tuned.yaml: algorithms.ippo.ppo.lr is not a key", "--help"]),
        (["experiment=mpe_spread", "ppo.entropy_decay=null"], ["ppo.entropy_decay cannot be null; leave it out"]),
        (["experiment=mpe_spread", "ppo.epoch=1"], ["ppo.epoch is not a key", "Did you mean ppo.epochs?"]),
        (["experiment=scalar.yaml"], ["scalar.yaml", "keys and values"]),
        (["experiment=itself.yaml"], ["itself.yaml", "refers to itself"]),
        (["experiment=stray.yaml"], ["experiment file stray.yaml", "num_env", "Did you mean num_envs?"]),
        ([], ["experiment=NAME", "mpe_spread"]),
        (["experiment=mpe_spread", "num_envs=many"], ["num_envs", "many"]),
        (["experiment=mpe_spread", "num_envs=1.5"], ["num_envs", "1.5"]),
        (["experiment=mpe_spread", "num_envs=0"], ["num_envs=0", "at least 1"]),
        (["experiment=mpe_spread", "num_envs="], ["num_envs"]),
        (["experiment=mpe_spread", "num_envs=1,2"], ["num_envs=1,2", "[1,2]"]),
        (["experiment=mpe_spread", "num_envs=(1"], ["num_envs=(1", "quotes"]),
        (["experiment=mpe_spread", "ppo={epochs:1,epoch:2}"], ["ppo.epoch", "Did you mean ppo.epochs?"]),
        (["experiment=mpe_spread", "ppo.minibatches=5000"], ["ppo.minibatches=5000", "6656"]),
        (["experiment=mpe_spread", "evaluation.episodes=16"], ["evaluation.episodes=16", "256"]),
        (["experiment=mpe_spread", "env.num_agent=3"], ["env.num_agent", "takes: num_agents"]),
        (["experiment=mpe_spread", "env.num_agents=x"], ["env.num_agents", "takes: num_agents"]),
        (["env.name=nowhere.to_be:Found", "algorithm=ippo"], ["nowhere", "installed"]),
        (["env.name=tiny_run:Endless", "algorithm=ippo"], ["tiny_run:Endless", "not over after max_steps"]),
        (
            ["env.name=tiny_run:Raising", "algorithm=ippo"],
            ["ZeroDivisionError", "tiny_run.py, line"],
        ),
        (["env.name=tiny_run:Walk"], ["algorithm=leed needs demonstrations", "algorithm=ippo"]),
        (["env.name=tiny_run:Walk", "demonstrations.path=nowhere"], ["demonstrations.path=nowhere"]),
        (["env.name=tiny_run:Walk", "demonstrations.path=damaged"], ["damaged", "manifest"]),
        (
            ["env.name=tiny_run:Walk", "env.max_steps=5", "demonstrations.path=set"],
            ["another environment"],
        ),
        (["--multirun", "experiment=mpe_spread"], ["--multirun", "num_seeds"]),
        (["-m", "experiment=mpe_spread"], ["-m", "num_seeds"]),
        (["--verbose"], ["--verbose", "--help"]),
        (["mpe_spread"], ["mpe_spread", "key=value"]),
        (["resume=old", "seed=3"], ["resume=old", "recorded configuration", "leave out seed"]),
        (["resume=old", "schedule=hold"], ["add total_steps=N"]),
        (["resume="], ["resume=", "no run directory"]),
        (["resume=nowhere"], ["resume=nowhere", "no run directory"]),
        (["resume=old"], ["resume=old", "no run directory"]),
        (["env.name=tiny_run:Walk", "algorithm=ippo", "out=old"], ["out=old", "not empty"]),
        (["env.name=tiny_run:Walk", "algorithm=ippo", "out=bad.yaml"], ["out=bad.yaml", "not a directory"]),
        (["env.name=tiny_run:Walk", "algorithm=ippo", "out=bad.yaml/x"], ["out=bad.yaml/x", "not a directory"]),
        (["env.name=tiny_run:Walk", "algorithm=ippo", "out=new/hidden[64,64]"], ["hidden[64,64]", "holds one of []*?"]),
        (["env.name=tiny_run:Walk", "algorithm=ippo", f"out=new/{'x' * 300}"], ["cannot be made", "too long"]),
        (["env.name=tiny_run:Walk", "algorithm=ippo", "out=run"], ["out=run", "holds a run already", "resume=run"]),
    ],
)
def test_bad_input_is_one_paragraph_and_changes_nothing(arguments, words, recorded, tmp_path, monkeypatch, capsys):
    (tmp_path / "bad.yaml").write_text("a: [1\n")
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "section.yaml").write_text("ppo: [1]\n")
    (tmp_path / "null.yaml").write_text("ppo: {entropy_decay: null}\n")
    (tmp_path / "tuned.yaml").write_text("algorithms: {ippo: {ppo: {lr: 1}}}\n")
    (tmp_path / "scalar.yaml").write_text("3\n")
    (tmp_path / "itself.yaml").write_text("env: &env {name: *env}\n")
    (tmp_path / "stray.yaml").write_text("env: {name: 'tiny_run:Walk'}\nnum_env: 3\n")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "notes.txt").write_text("keep me")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("seed: 1\n")
    for name in ("set", "damaged"):
        shutil.copytree(recorded, tmp_path / name)
    (tmp_path / "damaged" / "demonstrations.safetensors").write_bytes(b"cut")
    monkeypatch.chdir(tmp_path)
    before = files_under(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    for word in words:
        assert word in captured.err
    assert files_under(tmp_path) == before


def test_bad_input_ends_a_real_process_quickly_without_a_traceback(recorded, tmp_path):
    shutil.copytree(recorded, tmp_path / "set")
    (tmp_path / "set" / "transcript.jsonl").unlink()
    for arguments in (
        settings(tmp_path / "run", num_envs=0),
        settings(tmp_path / "run", algorithm="leed", demonstrations__path="set"),
    ):
        started = time.monotonic()
        status, output, errors = run_command(arguments, tmp_path)
        assert time.monotonic() - started < 10
        assert (status, output) == (2, "")
        assert errors.startswith("error: ")
        assert "Traceback" not in errors
        assert errors.count("\n") == 1
        assert not (tmp_path / "run").exists()


def test_help_lists_every_key_quickly(tmp_path):
    started = time.monotonic()
    status, output, errors = run_command(["--help"], tmp_path)
    assert time.monotonic() - started < 5
    assert (status, errors) == (0, "")
    for option in options(RunConfig):
        assert re.search(rf"^(  )?{re.escape(option.key)}[=:]", output, re.MULTILINE), option.key
    for text in ("algorithm=leed", "total_steps=1000000", "ppo.minibatches=4", "out=null", "network.groups=[]"):
        assert re.search(rf"^  {re.escape(text)}( |$)", output, re.MULTILINE), text
    assert "python -m leed_jax.run experiment=mpe_spread" in output
    assert max(map(len, output.splitlines())) <= 120


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"leed_jax {__version__}\n"


def test_importing_the_package_is_quick(tmp_path):
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", "import leed_jax"], check=True, cwd=tmp_path)
    assert time.monotonic() - started < 3


def test_only_one_module_knows_hydra():
    package = Path(leed_jax.__file__).parent
    using = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if re.search(r"^\s*(from|import) hydra", path.read_text(), re.MULTILINE)
    }
    assert using == {"config/compose.py"}


def test_an_unwritable_place_is_refused(tmp_path, monkeypatch, capsys):
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path and real(path, mode))
    assert main(settings(tmp_path / "run")) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_composed_and_plain_configurations_are_the_same():
    composed = compose_config(settings("there", demonstrations__path="set"))
    plain = from_dictionary(
        {
            "env": {"name": "tiny_run:Walk"},
            "algorithm": ALGORITHMS[1],
            "num_envs": 4,
            "rollout_steps": 8,
            "updates_per_chunk": 2,
            "total_steps": 256,
            "checkpoint_every": 2,
            "network": {"hidden_sizes": [8]},
            "ppo": {"epochs": 2, "minibatches": 2},
            "expert": {"batch_size": 8},
            "evaluation": {"episodes": 256},
            "demonstrations": {"path": "set"},
            "out": "there",
        }
    )
    assert composed == plain


def test_the_nearest_key_is_part_of_an_error_of_the_library_too():
    with pytest.raises(ConfigurationError, match="Did you mean seed"):
        compose_config(["sed=3", "env.name=a:B"])


def test_llm_names_a_provider_and_the_last_one_stands():
    config = compose_config(["experiment=mpe_spread", "llm=openai", "llm=local", "llm.path=a b.gguf"])
    assert (config.llm.provider, config.llm.path) == ("local", "a b.gguf")
    with pytest.raises(ConfigurationError, match=r"llm=gpt: .*replay, openai, anthropic, local"):
        compose_config(["experiment=mpe_spread", "llm=gpt"])
