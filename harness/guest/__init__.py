"""What a guest is once it runs: its SSH session, console and life cycle."""
