"""Many videos: what is to be done, who does it, and what is known of it, on one machine or on a Ray cluster.

`inputs` lists the videos, `manifest` remembers the state of each, an engine (`local`, `cluster`) runs `worker` in
processes of its own, and `driver` hands out work until every video is done or failed. `storage` is where results go: a
folder or a bucket. `tables` and `report` are what a person or another program reads afterwards.
"""
