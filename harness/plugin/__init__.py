"""All that pytest sees: hooks, options, markers, fixtures, and what is printed."""
