"""Tables that the planner is shipped with, and the scripts that derive them."""
