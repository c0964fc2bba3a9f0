"""The page in the browser: a server on the loopback, a store for each video, and a worker process that tracks."""
