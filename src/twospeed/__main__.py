"""`python -m twospeed`."""

from twospeed.cli.main import run

run()
