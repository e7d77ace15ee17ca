"""The capacity planner: from traces of a data centre to machines, racks, energy and money."""
