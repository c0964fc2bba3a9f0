# The chores of do.py, for fingers that type make.
.PHONY: setup demo test check bench
setup demo test check bench:
	python3 do.py $@
