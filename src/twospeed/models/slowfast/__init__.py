"""SlowFast networks (Feichtenhofer, Fan, Malik and He, ICCV 2019)."""
