"""SSH: one session a guest or host, and the ways its bytes travel."""
