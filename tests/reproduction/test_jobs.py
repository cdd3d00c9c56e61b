"""Jobs side by side: each runs once, and one that fails is named with its sentence."""

import re
import sys
from dataclasses import replace

import pytest

from reference_pipelines.errors import UserError
from reference_pipelines.reproduction import jobs as jobs_module
from reference_pipelines.reproduction.jobs import Job, run_jobs


def shell(tmp_path, name, code):
    """A job whose command is any Python."""
    return Job(name, ["-c", code], tmp_path / name, 1, tmp_path / "console" / f"{name}.txt")


@pytest.fixture
def plain_python(monkeypatch):
    """Starts jobs as plain Python, two at a time, and lists the processes."""
    processes = []

    def start(job, environment):
        job.console.parent.mkdir(parents=True, exist_ok=True)
        with open(job.console, "ab") as console:
            process = jobs_module.subprocess.Popen([sys.executable, *job.command], stdout=console, stderr=console)
        processes.append(process)
        return process

    monkeypatch.setattr(jobs_module, "_start", start)
    monkeypatch.setattr(jobs_module, "available_cores", lambda: 2)
    return processes


def test_a_job_that_fails_is_named_with_its_sentence_and_the_others_stop(tmp_path, plain_python):
    slow = shell(tmp_path, "slow", "import time; time.sleep(60)")
    bad = shell(tmp_path, "bad", "import sys; print('noise'); sys.exit('error: no such thing; do another')")
    with pytest.raises(UserError, match=re.escape("bad: no such thing; do another")):
        run_jobs([bad, slow])
    assert len(plain_python) == 2
    assert all(process.poll() is not None for process in plain_python)


def test_a_job_that_is_killed_is_named_with_its_status(tmp_path, plain_python):
    with pytest.raises(UserError, match="killed: exit status -9"):
        run_jobs([shell(tmp_path, "killed", "import os; print('half a bar'); os.kill(os.getpid(), 9)")])


def test_a_job_is_a_command_of_the_pipelines(tmp_path):
    run_jobs([Job("help", ["--help"], tmp_path / "help", 1, tmp_path / "console" / "help.txt")])
    assert "reference_pipelines COMMAND" in (tmp_path / "console" / "help.txt").read_text()


def test_every_job_runs_once(tmp_path, plain_python, capsys):
    jobs = [shell(tmp_path, f"job{i}", f"print('row {i}')") for i in range(5)]
    run_jobs(jobs)
    assert len(plain_python) == len(jobs)
    for i, job in enumerate(jobs):
        assert job.console.read_text() == f"row {i}\n"


def test_a_job_waits_for_what_it_needs_and_lets_the_others_pass(tmp_path, plain_python):
    made = tmp_path / "made"
    first = shell(tmp_path, "first", f"import time; time.sleep(2); open({str(made)!r}, 'w').close()")
    needy = [replace(shell(tmp_path, f"needy{i}", f"open({str(made)!r})"), after=first) for i in range(2)]
    other = shell(tmp_path, "other", f"import os; print(os.path.exists({str(made)!r}))")
    assert run_jobs([first, *needy, other], keep_going=True) == []
    assert other.console.read_text() == "False\n"
    assert len(plain_python) == 4


def test_a_job_fails_with_what_it_needs(tmp_path, plain_python):
    first = shell(tmp_path, "first", "import sys; sys.exit('error: no such thing')")
    needy, other = replace(shell(tmp_path, "needy", "pass"), after=first), shell(tmp_path, "other", "print('done')")
    failures = run_jobs([first, needy, other], keep_going=True)
    assert [failure.job for failure in failures] == [first, needy]
    assert failures[0].reason.startswith("no such thing")
    assert failures[1].reason == f"first failed: {failures[0].reason}"
    assert other.console.read_text() == "done\n"
    assert len(plain_python) == 2
