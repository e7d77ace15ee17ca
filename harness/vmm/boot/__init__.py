"""What a machine starts from: kernel, start information, ACPI tables."""
