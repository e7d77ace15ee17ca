"""Boot images and boot parameters: kernel, start information, ACPI tables."""
