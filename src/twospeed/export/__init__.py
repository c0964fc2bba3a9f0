"""Exported models: writing graphs (`write`), and running them behind the pipelines without torch (`networks`)."""
