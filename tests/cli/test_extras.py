"""A command whose extra is not installed says which one to install, and exits 69."""

import subprocess
import sys


def test_the_emulator_says_what_to_install():
    """
    Somebody installed the product alone: no traceback, the extra's name.
    """
    without = (
        "import sys; sys.modules['httptools'] = None\n"
        "from openrouter_audit.cli import main\n"
        "raise SystemExit(main(['emulator']))"
    )
    done = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True, check=False)

    assert (69, "") == (done.returncode, done.stdout)
    assert "openrouter-audit[testing]" in done.stderr
    assert "Traceback" not in done.stderr
