"""STCN: space-time correspondence networks (Cheng, Tai and Tang, NeurIPS 2021)."""
