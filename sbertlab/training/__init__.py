"""`fit`: one training loop that can be stopped and resumed bit for bit."""
