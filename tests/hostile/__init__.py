"""Hostile and odd inputs for every command: each must end in a result, or in one line and exit code 2.

    python -m tests.hostile                        all cases, two at a time
    python -m tests.hostile --kind weights,masks   those of some kinds
    python -m tests.hostile --only 'ckpt|mask'     those whose name matches
    python -m tests.hostile --list                 names and command lines
    python -m tests.hostile --real --only NAME     by the installed `twospeed`, not by a fork of this process

pytest runs a sample of them; `pytest -m hostile tests/hostile` runs all, with thousands of damaged files
(test_fuzzing.py) and hundreds of interruptions (test_interruptions.py). See docs/reliability.md.
"""
