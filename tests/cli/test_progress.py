"""Progress goes to stderr: nothing when quiet, and few plain lines where nobody watches a terminal."""

from __future__ import annotations

import pytest

from fmn_guard.cli import progress


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.reporting(quiet=True) as report:
        report("pass 1/2: pistol", 1, 40)
    assert capsys.readouterr() == ("", "")


def test_log_gets_a_line_every_thirty_seconds_on_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with progress.reporting() as report:
        for second in range(61):
            monkeypatch.setattr(progress.time, "monotonic", lambda now=second: 1000.0 + now)
            report("auditing", second, 60)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["auditing: 0 of 60", "auditing: 30 of 60", "auditing: 60 of 60"]


def test_terminal_gets_a_bar_on_stderr(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    with progress.reporting() as report:
        report("pass 1/2: pistol", 1, 40)
        report("pass 2/2: bomb", 3, 20)
    out, err = capsys.readouterr()
    assert out == ""
    assert "pass 2/2: bomb" in err
    assert "3/20" in err
