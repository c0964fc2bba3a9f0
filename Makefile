# Shortcuts: make test is python3 do.py test.
.PHONY: setup demo test coverage check docs wheel bench
setup demo test coverage check docs wheel bench:
	python3 do.py $@
